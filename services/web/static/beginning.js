// @ts-check
/** What the next session is to go on from: a picture or a clip that was picked, dropped or pasted. */

import { byId, setText } from "./dom.js";

const MAX_BYTES = 8 * 2 ** 20;
const IMAGES = ["image/png", "image/jpeg", "image/webp"];
const VIDEOS = ["video/mp4"];

/** @typedef {{kind: "image" | "video", file: File, address: string}} Chosen address: of its thumbnail */

export class Beginning {
  /** @type {Chosen | null} */
  chosen = null;

  /** @param {(text: string) => void} failed what is wrong with a file, for the person */
  constructor(failed) {
    this.failed = failed;
    this.input = byId("start-file");
    byId("start-pick").addEventListener("click", () => this.input.click());
    byId("start-remove").addEventListener("click", () => this.clear());
    this.input.addEventListener("change", () => this.take(this.input.files));
    addEventListener("paste", (event) => this.takeIfAny(event, event.clipboardData));
    addEventListener("dragover", (event) => this.allow(event));
    addEventListener("drop", (event) => this.takeIfAny(event, event.dataTransfer));
    addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  }

  /** A file that the page does not take would replace the page. @param {DragEvent} event */
  allow(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("dropping", !byId("options").disabled);
  }

  /** @param {Event} event @param {DataTransfer | null} transfer */
  takeIfAny(event, transfer) {
    document.body.classList.remove("dropping");
    if (!transfer?.files.length) return; // Text goes where it was meant to go.
    event.preventDefault();
    if (!byId("options").disabled) this.take(transfer.files);
  }

  /** @param {FileList} files the first of them */
  take([file]) {
    if (!file) return;
    const kind = IMAGES.includes(file.type) ? "image" : VIDEOS.includes(file.type) ? "video" : null;
    if (!kind) return this.failed(`${file.name}: must be a PNG, JPEG or WebP picture, or an MP4 clip.`);
    if (!file.size) return this.failed(`${file.name}: is empty.`);
    if (file.size > MAX_BYTES) {
      const size = (file.size / 2 ** 20).toFixed(1);
      return this.failed(`${file.name}: has ${size} MiB, more than the 8 MiB that can be sent.`);
    }
    this.clear();
    this.show({ kind, file, address: URL.createObjectURL(file) });
  }

  /** @param {Chosen} chosen */
  async show(chosen) {
    this.chosen = chosen;
    const isVideo = chosen.kind === "video";
    const [still, clip] = [byId("start-picture"), byId("start-clip")];
    still.hidden = isVideo;
    clip.hidden = !isVideo;
    for (const id of ["start-last", "start-shown"]) byId(id).closest("label").hidden = !isVideo;
    setText(byId("start-name"), chosen.file.name);
    byId("start-box").hidden = false;
    if (isVideo) clip.src = chosen.address;
    else still.src = await readAs(chosen.file);
  }

  clear() {
    if (this.chosen) URL.revokeObjectURL(this.chosen.address);
    this.chosen = null;
    this.input.value = "";
    for (const id of ["start-picture", "start-clip"]) byId(id).removeAttribute("src");
    byId("start-box").hidden = true;
  }

  /** @returns {Promise<Record<string, unknown>>} the part of SessionSpec, as JSON */
  async wish() {
    if (!this.chosen) return {};
    const { kind, file } = this.chosen;
    const [, content] = (await readAs(file)).split(",");
    const last = byId("start-last").value.trim();
    const start = { [kind]: content, fit: byId("start-fit").value };
    if (kind === "video" && last) Object.assign(start, { last: `${last}s` });
    return { start, ...(kind === "video" ? { includeStart: byId("start-shown").checked } : {}) };
  }
}

/** @param {File} file @returns {Promise<string>} a data: address, with the content in base64 */
function readAs(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(String(reader.result)));
    reader.addEventListener("error", () => reject(new TypeError(`${file.name} cannot be read`)));
    reader.readAsDataURL(file);
  });
}
