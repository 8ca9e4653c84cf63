// A browser that plays only after a click on the picture.
() => {
  const { play } = HTMLMediaElement.prototype;
  let mayPlay = false;
  addEventListener("click", ({ target }) => (mayPlay ||= Boolean(target.closest("#screen"))), { capture: true });
  HTMLMediaElement.prototype.play = function () {
    return mayPlay ? play.call(this) : Promise.reject(new DOMException("not now", "NotAllowedError"));
  };
}
