// Keeps what is drawn of the video, in order: the time of the picture, the grey of its middle, and whether anybody looks.
// With hide() and show() nobody looks and somebody does, as browsers tell it: pictures are not composed meanwhile.
() => {
  window.album = [];
  const { drawImage } = CanvasRenderingContext2D.prototype;
  const small = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = small.getContext("2d", { willReadFrequently: true });
  CanvasRenderingContext2D.prototype.drawImage = function (image, ...more) {
    drawImage.call(this, image, ...more);
    if (!(image instanceof VideoFrame)) return;
    drawImage.call(pen, this.canvas, 0, 0, 1, 1);
    album.push([image.timestamp / 1e6, pen.getImageData(0, 0, 1, 1).data[0]]);
  };
  const ask = window.requestAnimationFrame;
  let held = [];
  const tell = (hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    Object.defineProperty(document, "visibilityState", { value: hidden ? "hidden" : "visible", configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  };
  window.hide = () => {
    window.requestAnimationFrame = (work) => held.push(work);
    tell(true);
  };
  window.show = () => {
    window.requestAnimationFrame = ask;
    tell(false);
    held.splice(0).forEach((work) => ask(work));
  };
}
