// Of the picture that shows: how many of 48 x 48 pixels are of which colour, and a hash of them all.
(video) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 48;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, 48, 48);
  const { data } = context.getImageData(0, 0, 48, 48);
  const found = { red: 0, green: 0, blue: 0, hash: 0 };
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue] = data.subarray(at, at + 3);
    if (red > 90 && red > 1.6 * green && red > 1.6 * blue) found.red += 1;
    if (green > 70 && green > 1.4 * red && green > 1.4 * blue) found.green += 1;
    if (blue > 90 && blue > 1.6 * red && blue > 1.3 * green) found.blue += 1;
    found.hash = (31 * found.hash + red + 7 * green + 13 * blue) % 1000003;
  }
  return found;
}
