// What shows, and what a viewer would mind of it: waiting with nothing left to play, and pictures that step back. Loaded
// before the page's own scripts. A `<video>` also waits where a busy machine decodes too slowly; that is not the page's
// doing. Nor is it a step back when its clock, which ran on after the last picture, is set to that picture while it stands
// still. Of a canvas the time is that of the picture that was drawn last.
{
  const drawn = new WeakMap();
  const { drawImage } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.drawImage = function (image, ...more) {
    if (globalThis.VideoFrame && image instanceof VideoFrame) drawn.set(this.canvas, image.timestamp / 1e6);
    return drawImage.call(this, image, ...more);
  };
  window.screens = () =>
    [...document.querySelectorAll("video, canvas:not(#glow)")].filter((each) => !each.closest("[hidden]"));
  window.times = () =>
    screens().map((each) => (each instanceof HTMLCanvasElement ? (drawn.get(each) ?? 0) : each.currentTime));
  window.sizes = () =>
    screens().map((each) => [each.videoWidth ?? each.width, each.videoHeight ?? each.height].join(" x "));
}
addEventListener("DOMContentLoaded", () => {
  const video = document.querySelector("video");
  if (!video) return;
  const witness = (window.witness = { waiting: 0, back: 0, last: 0 });
  const end = () => (video.buffered.length ? video.buffered.end(video.buffered.length - 1) : video.currentTime);
  const time = () => (video.paused ? witness.last : Math.min(video.currentTime, end()));
  const look = () => {
    const shown = screens()[0] === video ? time() : times()[0];
    witness.back = Math.max(witness.back, witness.last - shown);
    witness.last = shown;
    requestAnimationFrame(look);
  };
  const ahead = () => (video.buffered.length ? end() - video.currentTime : 0);
  video.addEventListener("waiting", () => (witness.waiting += witness.last > 0 && ahead() < 0.1 ? 1 : 0));
  look();
});
