// Counts what a viewer would mind: waiting with nothing left to play, and pictures that step back. Loaded before the
// page's own scripts. The browser also waits where a busy machine decodes too slowly; that is not the page's doing. Nor is
// it a step back when the clock, which ran on after the last picture, is set to that picture while it stands still.
addEventListener("DOMContentLoaded", () => {
  const video = document.querySelector("video");
  if (!video) return;
  const witness = (window.witness = { waiting: 0, back: 0, last: 0 });
  const end = () => (video.buffered.length ? video.buffered.end(video.buffered.length - 1) : video.currentTime);
  const look = () => {
    const shown = video.paused ? witness.last : Math.min(video.currentTime, end());
    witness.back = Math.max(witness.back, witness.last - shown);
    witness.last = shown;
    requestAnimationFrame(look);
  };
  const ahead = () => (video.buffered.length ? end() - video.currentTime : 0);
  video.addEventListener("waiting", () => (witness.waiting += witness.last > 0 && ahead() < 0.1 ? 1 : 0));
  look();
});
