// @ts-check
/** The MP4 of what the gateway keeps. The token goes as a header: an address ends up in histories. */

import { addressOf } from "./addresses.js";
import { problemOf } from "./api.js";
import { ProblemError } from "./problem.js";
import { save } from "./recorder.js";

const DEADLINE_MS = 120_000;

/** @param {string} name of the session @param {string} token Raises ProblemError. */
export async function download(name, token) {
  const headers = { "x-resume-token": token };
  const options = { headers, signal: AbortSignal.timeout(DEADLINE_MS) };
  const answer = await fetch(addressOf(`/v1/${name}/video.mp4`), options);
  if (!answer.ok) throw new ProblemError(await problemOf(answer));
  save(await answer.blob(), `${name.replace("sessions/", "cascade-")}.mp4`);
}
