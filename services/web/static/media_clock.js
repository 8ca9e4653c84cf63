// @ts-check
/** The time of media that plays: it goes on with the page's own, and never beyond an end. */

export class MediaClock {
  #at = 0;
  #since = 0;
  #rate = 1;
  #end = Infinity;
  #runs = false;

  /** Seconds. */
  get time() {
    if (!this.#runs) return this.#at;
    const passed = (this.#rate * (performance.now() - this.#since)) / 1000;
    return Math.max(this.#at, Math.min(this.#at + passed, this.#end));
  }

  set time(seconds) {
    this.#at = seconds;
    this.#since = performance.now();
  }

  get rate() {
    return this.#rate;
  }

  set rate(rate) {
    this.time = this.time;
    this.#rate = rate;
  }

  /** Where it waits. What passes while it waits is no media time. */
  get end() {
    return this.#end;
  }

  set end(end) {
    this.time = this.time;
    this.#end = end;
  }

  get runs() {
    return this.#runs;
  }

  set runs(runs) {
    this.time = this.time;
    this.#runs = runs;
  }

  /** @param {number} time @returns {number} ms of the page until then */
  until(time) {
    return (1000 * (time - this.time)) / this.#rate;
  }
}
