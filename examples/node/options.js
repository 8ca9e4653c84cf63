// The command line.

import { parseArgs } from "node:util";

export const usage = `node record.js PROMPT [--switch SECOND=PROMPT]... [--blocks N] [--out FILE] [--gateway URL]

Records a session until its blocks are made or Ctrl-C ends it. The environment variable CASCADE_API_KEY holds the key.`;

const options = {
  switch: { type: "string", multiple: true, default: [] },
  blocks: { type: "string" },
  out: { type: "string", default: "video.mp4" },
  gateway: { type: "string", default: "http://localhost:50051" },
};

/** Throws an Error for people. */
export function parse(argv) {
  const { values, positionals } = parseArgs({ args: argv, options, allowPositionals: true });
  if (positionals.length !== 1) throw new Error("one prompt is needed");
  const numBlocks = values.blocks === undefined ? undefined : BigInt(values.blocks);
  const switches = values.switch.map(parseSwitch).sort((a, b) => a.atSecond - b.atSecond);
  return { prompt: positionals[0], switches, numBlocks, out: values.out, url: values.gateway };
}

function parseSwitch(text) {
  const [, second, prompt] = /^(\d+(?:\.\d+)?)=(.*\S.*)$/s.exec(text) ?? [];
  if (!prompt) throw new Error(`--switch takes SECOND=PROMPT, not ${text}`);
  return { atSecond: Number(second), prompt };
}
