// @ts-check
/** The picture alone: by its button, by a key, by a double click. Phones that cannot show an element show the video. */

import { byId, setAttribute, setText } from "./dom.js";

export class FullScreen {
  constructor() {
    this.screen = byId("screen");
    this.button = byId("full");
    this.video = byId("video");
    this.button.hidden = !document.fullscreenEnabled && !this.video.webkitEnterFullscreen;
    this.button.addEventListener("click", () => this.toggle());
    this.screen.addEventListener("dblclick", () => this.toggle());
    document.addEventListener("fullscreenchange", () => this.show());
  }

  async toggle() {
    try {
      if (document.fullscreenElement) await document.exitFullscreen();
      else if (document.fullscreenEnabled) await this.screen.requestFullscreen();
      else this.video.webkitEnterFullscreen?.();
    } catch {
      this.show(); // The browser does not want to: nothing has changed.
    }
  }

  show() {
    const isFull = document.fullscreenElement === this.screen;
    setAttribute(this.button, "aria-pressed", String(isFull));
    setText(byId("full-text"), isFull ? "Leave full screen" : "Full screen");
  }
}
