// @ts-check
/** Notices that somebody looks at the page again, or that the machine has slept. */

const LOOK_MS = 1000;
const ASLEEP_MS = 5000;

/** @param {(hasSlept: boolean) => void} back called each time; hasSlept: no code of the page ran for a while, so its
 * connections may be dead without a word */
export function onWake(back) {
  let lookedAt = Date.now(); // Unlike performance.now, it goes on while a machine sleeps.
  const look = () => {
    const hasSlept = Date.now() - lookedAt > ASLEEP_MS;
    lookedAt = Date.now();
    return hasSlept;
  };
  document.addEventListener("visibilitychange", () => {
    const hasSlept = look();
    if (!document.hidden) back(hasSlept);
  });
  setInterval(() => {
    if (look() && !document.hidden) back(true);
  }, LOOK_MS);
}
