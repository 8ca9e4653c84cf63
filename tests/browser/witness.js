// Counts what a viewer would mind: waiting with nothing left to play, and steps back. Loaded before the page's own
// scripts. The browser also waits where a busy machine decodes too slowly; that is not the page's doing.
addEventListener("DOMContentLoaded", () => {
  const video = document.querySelector("video");
  if (!video) return;
  const witness = (window.witness = { waiting: 0, back: 0, last: 0 });
  const look = () => {
    witness.back = Math.max(witness.back, witness.last - video.currentTime);
    witness.last = video.currentTime;
    requestAnimationFrame(look);
  };
  const ahead = () => {
    const { buffered, currentTime } = video;
    return buffered.length ? buffered.end(buffered.length - 1) - currentTime : 0;
  };
  video.addEventListener("waiting", () => (witness.waiting += witness.last > 0 && ahead() < 0.1 ? 1 : 0));
  look();
});
