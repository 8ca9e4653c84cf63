// @ts-check
/** Durations and times of the protobuf JSON mapping, and how people read them. */

/** @param {string | undefined} text such as "0.75s" @returns {number | null} seconds */
export function seconds(text) {
  if (!text) return null;
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : null;
}

/** @param {number} value seconds @returns {string} the same as a Duration */
export function duration(value) {
  return `${Math.max(0, value).toFixed(3)}s`;
}

/** @param {string | undefined} text RFC 3339 @returns {number | null} milliseconds since 1970 */
export function milliseconds(text) {
  const value = text ? Date.parse(text) : Number.NaN;
  return Number.isNaN(value) ? null : value;
}

/** @param {number | null} value seconds @returns {string} such as "840 ms", "12.3 s", "4 min" */
export function readable(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (value < 99.95) return `${value.toFixed(1)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

/** @param {number} value seconds @returns {string} such as "1:07" */
export function clock(value) {
  const whole = Math.max(0, Math.floor(value));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

/** @param {string | undefined} name an enum's value @param {string} prefix @returns {string} in small letters */
export function word(name, prefix) {
  return (name ?? "").replace(prefix, "").replaceAll("_", " ").toLowerCase();
}
