// @ts-check
/**
 * What the player asks of whatever shows its pictures: one interface, two ways.
 *
 * Times are those of the session's clock, in seconds.
 */

import { CanvasOutput } from "./canvas_output.js";
import { MediaSourceOutput } from "./media_source_output.js";

/**
 * @typedef {{type?: string, data: Uint8Array}} Media with a type: an initialisation segment
 * @typedef {{
 *   element: HTMLVideoElement | HTMLCanvasElement,
 *   time: number, rate: number, numShown: number, hasPicture: boolean,
 *   isPaused: boolean, isSeeking: boolean, isWaiting: boolean, isOver: boolean,
 *   size: {width: number, height: number}, ranges: import("./ranges.js").Range[], kept: Media[],
 *   init(type: string, data: Uint8Array): void, add(data: Uint8Array): void, end(): void, close(): void,
 *   play(): Promise<void>, pause(): void, pump(): void,
 * }} Output
 *   numShown: pictures; hasPicture: whether one was there; isWaiting: it stands still by itself, until there is more;
 *   ranges: what it has; kept: what another one needs to go on from here; end: nothing more will be added;
 *   pump: called now and then
 * @typedef {{changed(): void, moved(): void, flows(): void, resized(): void, failed(): void}} Listener
 *   changed: it has other media than before; flows: pictures begin to move; failed: it shows nothing any more
 */

/**
 * @typedef {{video: HTMLVideoElement, canvas: HTMLCanvasElement}} Elements
 * @typedef {(listener: Listener) => Output} Way
 */

/** The canvas first, unless the page's address asks for another (`?player=`). Where only a `<video>` can fill the screen, as
 * on some phones, it comes first.
 * @param {Elements} elements @param {string} type of the media @returns {Way[]} what can be tried, best first */
export function waysFor({ video, canvas }, type) {
  const asked = new URLSearchParams(location.search).get("player");
  /** @type {Way[]} */
  const ways = MediaSourceOutput.plays(type) ? [(listener) => new MediaSourceOutput(video, listener)] : [];
  if (asked === "media-source" || !CanvasOutput.plays(type)) return ways;
  const draw = (/** @type {Listener} */ listener) => new CanvasOutput(canvas, listener);
  return asked === "canvas" || document.fullscreenEnabled ? [draw, ...ways] : [...ways, draw];
}
