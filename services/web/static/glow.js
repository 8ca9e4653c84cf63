// @ts-check
/** The colours of the video around it: a few pixels, drawn now and then, and stretched. */

const EVERY_MS = 500;

/** @param {import("./player.js").Player} player @param {HTMLCanvasElement} canvas */
export function glow(player, canvas) {
  const context = canvas.getContext("2d");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  setInterval(() => {
    const { output, hasPicture } = player;
    if (!output || !hasPicture || calm.matches) context?.clearRect(0, 0, canvas.width, canvas.height);
    else if (!document.hidden) context?.drawImage(output.element, 0, 0, canvas.width, canvas.height);
  }, EVERY_MS);
}
