// @ts-check
/** As much of fragmented MP4 as the page needs: with one H.264 track whose pictures are decoded in the order in which they
 * show, as the decoder makes them. */

const TIMESCALE = 90_000;
/** Of a sample entry for video, before the boxes inside of it. */
const ENTRY_BYTES = 78;
const IS_NO_KEY = 0x10000;

/** @typedef {{time: number, duration: number, isKey: boolean, data: Uint8Array}} Sample one picture; times in seconds */

/**
 * @param {Uint8Array} fragment moof and mdat @param {number} from seconds that become 0
 * @returns {Uint8Array} a copy with other decode times
 */
export function shifted(fragment, from) {
  const copy = fragment.slice();
  const view = viewOf(copy);
  for (const tfdt of inside(view, "moof", "traf", "tfdt")) shiftTime(view, tfdt.start, from);
  return copy;
}

/** @param {Uint8Array} init ftyp and moov @returns {Uint8Array | undefined} what H.264 needs before its samples: an
 * AVCDecoderConfigurationRecord */
export function avcRecordOf(init) {
  const view = viewOf(init);
  for (const stsd of inside(view, "moov", "trak", "mdia", "minf", "stbl", "stsd")) {
    for (const entry of boxes(view, stsd.start + 8, stsd.end, "avc1")) {
      for (const avcC of boxes(view, entry.start + ENTRY_BYTES, entry.end, "avcC"))
        return init.subarray(avcC.start, avcC.end);
    }
  }
  return undefined;
}

/** @param {Uint8Array} fragments each moof and mdat @returns {Sample[]} */
export function samplesOf(fragments) {
  const view = viewOf(fragments);
  return [...boxes(view, 0, view.byteLength, "moof")].flatMap((moof) =>
    [...boxes(view, moof.start, moof.end, "traf")].flatMap((traf) => samplesIn(view, moof.start - 8, traf)),
  );
}

/** @param {DataView} view @param {number} base where the moof begins @param {Box} traf @returns {Sample[]} */
function samplesIn(view, base, traf) {
  const [tfhd] = boxes(view, traf.start, traf.end, "tfhd");
  const [tfdt] = boxes(view, traf.start, traf.end, "tfdt");
  const usual = defaultsOf(view, tfhd.start);
  let time = view.getUint8(tfdt.start)
    ? Number(view.getBigUint64(tfdt.start + 4))
    : view.getUint32(tfdt.start + 4);
  return [...boxes(view, traf.start, traf.end, "trun")].flatMap((trun) => {
    const read = fieldsOf(view, trun.start);
    const number = view.getUint32(trun.start + 4);
    read.skip(4);
    let at = base + (read.field(0x1) ?? 0);
    const first = read.field(0x4);
    return Array.from({ length: number }, (_, i) => {
      const duration = read.field(0x100) ?? usual.duration;
      const size = read.field(0x200) ?? usual.size;
      const flags = read.field(0x400) ?? (i === 0 ? first : undefined) ?? usual.flags;
      read.field(0x800);
      const data = new Uint8Array(view.buffer, view.byteOffset + at, size);
      const sample = {
        time: time / TIMESCALE,
        duration: duration / TIMESCALE,
        isKey: !(flags & IS_NO_KEY),
        data,
      };
      at += size;
      time += duration;
      return sample;
    });
  });
}

/** @param {DataView} view @param {number} at of a tfhd */
function defaultsOf(view, at) {
  const read = fieldsOf(view, at);
  read.skip(4); // the track
  if (read.field(0x1) !== undefined) read.skip(4); // an offset of 64 bits
  read.field(0x2);
  return { duration: read.field(0x8) ?? 0, size: read.field(0x10) ?? 0, flags: read.field(0x20) ?? 0 };
}

/** Reads fields of 32 bits, of which the flags say which are there. @param {DataView} view
 * @param {number} at of version and flags */
function fieldsOf(view, at) {
  const flags = view.getUint32(at) & 0xffffff;
  let place = at + 4;
  return {
    /** @param {number} flag */
    field: (flag) => {
      if (!(flags & flag)) return undefined;
      place += 4;
      return view.getUint32(place - 4);
    },
    /** @param {number} bytes */
    skip: (bytes) => {
      place += bytes;
    },
  };
}

/** @param {DataView} view @param {number} at version and flags, then the time @param {number} from seconds */
function shiftTime(view, at, from) {
  const shift = Math.round(from * TIMESCALE);
  if (view.getUint8(at) === 1) {
    const time = view.getBigUint64(at + 4) - BigInt(shift);
    view.setBigUint64(at + 4, time > 0n ? time : 0n);
  } else {
    view.setUint32(at + 4, Math.max(0, view.getUint32(at + 4) - shift));
  }
}

/** @param {Uint8Array} data */
function viewOf(data) {
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

/** @typedef {{start: number, end: number}} Box its inside */

/** @param {DataView} view @param {...string} path kinds, each inside of the one before @returns {Box[]} */
function inside(view, ...path) {
  let found = [{ start: 0, end: view.byteLength }];
  for (const kind of path) found = found.flatMap(({ start, end }) => [...boxes(view, start, end, kind)]);
  return found;
}

/** @param {DataView} view @param {number} start @param {number} end @param {string} kind
 * @returns {Generator<Box>} boxes of that kind */
function* boxes(view, start, end, kind) {
  for (let at = start; at + 8 <= end;) {
    const size = view.getUint32(at);
    const name = String.fromCharCode(...[4, 5, 6, 7].map((i) => view.getUint8(at + i)));
    if (size < 8 || at + size > end) return;
    if (name === kind) yield { start: at + 8, end: at + size };
    at += size;
  }
}
