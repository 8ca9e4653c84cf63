// Records a session into an MP4 and steers it on the way. See docs/clients.md.

import { randomUUID } from "node:crypto";
import { ConnectError } from "@connectrpc/connect";
import { call, open } from "./calls.js";
import { explain } from "./errors.js";
import { EndReason, SwitchState } from "./generated/cascade/v1/session_pb.js";
import { Movie, seconds } from "./movie.js";
import { parse, usage } from "./options.js";
import { Stream } from "./stream.js";

async function record({ prompt, switches, numBlocks, out, url }) {
  const client = open(url, process.env.CASCADE_API_KEY);
  const movie = await Movie.create(out);
  try {
    const { session, resumeToken } = await call(client.createSession, { spec: { prompts: { 0: prompt }, numBlocks } });
    console.log(`${session.name} made; Ctrl-C ends it`);
    endOnSignal(client, session.name);
    const stream = new Stream(client, resumeToken, (why) => console.log(`connection lost: ${why}`));
    for await (const message of stream.events()) await take(message, stream, movie, switches);
  } finally {
    await movie.close();
  }
  console.log(`${out}: ${movie.frames} pictures, ${movie.seconds.toFixed(2)} s`);
}

async function take({ case: kind, value }, stream, movie, switches) {
  if (kind === "mediaInit") await movie.begin(value);
  if (kind === "segment") {
    await movie.add(value.media);
    while (switches.length && movie.seconds >= switches[0].atSecond) {
      stream.switchPrompt(randomUUID(), switches.shift().prompt);
    }
    stream.ack(value.sequence);
  }
  const line = tell[kind]?.(value);
  if (line) console.log(line);
  if (kind === "ended" && value.reason === EndReason.FAILED) throw new Error("the session failed");
}

const tell = {
  attached: ({ session, nextSequence }) => `attached to ${session.name}, segment ${nextSequence} is next`,
  segment: ({ sequence, media }) => `segment ${sequence}: ${media.numFrames} pictures`,
  queueChanged: ({ position, queueLength }) => `place ${position} of ${queueLength} in the queue`,
  promptReceipt: (receipt) => tellReceipt(receipt),
  recoveryStarted: () => "something was lost; it is being rebuilt",
  recoveryDone: ({ gap }) => `it goes on, after ${seconds(gap).toFixed(2)} s`,
  requestFailed: ({ status }) => `refused: ${status.message}`,
  ended: ({ reason, status }) => `ended: ${EndReason[reason]} ${status?.message ?? ""}`,
};

function tellReceipt({ state, touchedPresentationTime, status }) {
  if (state !== SwitchState.APPLIED) return `prompt ${SwitchState[state]} ${status?.message ?? ""}`;
  return `prompt APPLIED, seen from second ${seconds(touchedPresentationTime).toFixed(2)} on`;
}

/** The first signal ends the session, whose end then ends the stream; a second one ends this process. */
function endOnSignal(client, name) {
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => call(client.deleteSession, { name }).catch((error) => console.error(explain(error))));
  }
}

function fail(text) {
  console.error(text);
  process.exit(1);
}

function parsed() {
  try {
    return parse(process.argv.slice(2));
  } catch (error) {
    return fail(`${error.message}\n\n${usage}`);
  }
}

await record(parsed()).catch((error) => fail(error instanceof ConnectError ? explain(error) : error.message));
process.exit(0); // connections that are kept open would hold it
