// @ts-check
/** What outlives a reload: this tab's session in sessionStorage, prompts in localStorage. Both may be forbidden. */

const PREFIX = "cascade.";

/** @param {() => Storage} storage */
function store(storage) {
  return {
    /** @param {string} name @returns {any} null: nothing */
    get(name) {
      try {
        return JSON.parse(storage().getItem(PREFIX + name) ?? "null");
      } catch {
        return null;
      }
    },
    /** @param {string} name @param {unknown} value null: forget it */
    set(name, value) {
      try {
        if (value === null) storage().removeItem(PREFIX + name);
        else storage().setItem(PREFIX + name, JSON.stringify(value));
      } catch {
        // Full or forbidden: the page works without.
      }
    },
  };
}

export const memory = store(() => sessionStorage);
export const longMemory = store(() => localStorage);
