// @ts-check
/** The colours of the video around it: a few pixels, drawn now and then, and stretched. */

const EVERY_MS = 500;

/** @param {HTMLVideoElement} video @param {HTMLCanvasElement} canvas */
export function glow(video, canvas) {
  const context = canvas.getContext("2d");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  setInterval(() => {
    const isShown = video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && !calm.matches;
    if (!isShown) context?.clearRect(0, 0, canvas.width, canvas.height);
    else if (!document.hidden) context?.drawImage(video, 0, 0, canvas.width, canvas.height);
  }, EVERY_MS);
}
