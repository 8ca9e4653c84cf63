// @ts-check
/** The API reference: what openapi.json says, for people. */

import { addressOf } from "./addresses.js";
import { byId, make } from "./dom.js";
import { prose } from "./prose.js";

const SCHEMAS = "#/components/schemas/";

/** @typedef {Record<string, any>} Schema */

/** @param {Schema} document_ */
function show(document_) {
  const operations = Object.entries(document_.paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, operation]) => ({ title: `${verb.toUpperCase()} ${path}`, operation })),
  );
  const schemas = Object.entries(document_.components.schemas);
  byId("reference").replaceChildren(
    make("section", { id: "about" }, ...prose(document_.info.description)),
    ...operations.map(({ title, operation }) => call(title, operation)),
    ...schemas.map(([name, schema]) => section(name, name, ...shape(schema))),
  );
  const tags = new Set(operations.map(({ operation }) => operation.tags[0]));
  byId("contents").replaceChildren(
    link("about", "About"),
    ...[...tags].flatMap((tag) => [
      make("h2", {}, tag),
      ...operations
        .filter(({ operation }) => operation.tags[0] === tag)
        .map(({ operation }) => link(operation.operationId, operation.operationId)),
    ]),
    make("h2", {}, "Messages"),
    ...schemas.map(([name]) => link(name, name)),
  );
}

/** @param {string} id @param {string} title @param {...(Node | string)} content */
function section(id, title, ...content) {
  return make("section", { id }, make("h2", {}, title), ...content);
}

/** @param {string} id @param {string} text */
function link(id, text) {
  return make("a", { href: `#${id}` }, text);
}

/** @param {string} title @param {Schema} operation */
function call(title, operation) {
  const { operationId: id, parameters = [], requestBody, responses } = operation;
  const body = requestBody?.content["application/json"].schema;
  const success = Object.entries(responses).filter(([status]) => status < "400");
  return section(
    id,
    title,
    ...(operation.tags[0].endsWith("Service")
      ? [make("p", { class: "note" }, `gRPC: ${rpc(operation)}`)]
      : []),
    ...prose(operation.description),
    ...(parameters.length ? [make("h3", {}, "Parameters"), list(parameters.map(parameter))] : []),
    ...(body ? [make("h3", {}, "Body"), ...shape({ ...body, description: "" })] : []),
    make("h3", {}, "Answer"),
    ...success.map(([status, answer]) => make("p", {}, `${status} `, ...answered(answer))),
    make("p", {}, "Errors: ", link("Problem", "Problem")),
  );
}

/** @param {Schema} operation Its name is the method's. */
function rpc({ tags, operationId }) {
  return `cascade.v1.${tags[0]}/${operationId[0].toUpperCase()}${operationId.slice(1)}`;
}

/** @param {Schema} answer */
function answered(answer) {
  const kinds = Object.entries(answer.content ?? {});
  return kinds.length
    ? kinds.flatMap(([kind, { schema }]) => (schema ? type(schema) : [kind]))
    : [answer.description];
}

/** @param {Schema} each */
function parameter(each) {
  return entry(
    each.name,
    each.schema,
    each.description,
    `in the ${each.in}${each.required ? ", required" : ""}`,
  );
}

/** @param {Schema} schema */
function shape(schema) {
  const { required = [], properties = {} } = schema;
  const entries = Object.entries(properties).map(([name, property]) =>
    entry(name, property, property.description, required.includes(name) ? "required" : ""),
  );
  return [...prose(schema.description ?? ""), ...(entries.length ? [list(entries)] : [])];
}

/** @param {Node[][]} entries */
function list(entries) {
  return make("dl", {}, ...entries.flat());
}

/** @param {string} name @param {Schema} schema @param {string | undefined} text @param {string} note */
function entry(name, schema, text, note) {
  const about = [
    "  ",
    ...type(schema),
    ...[note, ...bounds(schema)].filter(Boolean).map((each) => `, ${each}`),
  ];
  const head = make("dt", {}, make("code", {}, name), make("span", { class: "note" }, ...about));
  return [head, make("dd", {}, ...prose(text ?? ""))];
}

/** @param {Schema} schema @returns {(Node | string)[]} */
function type(schema) {
  const name = schema.$ref?.slice(SCHEMAS.length);
  if (name) return [link(name, name)];
  if (schema.items) return ["list of ", ...type(schema.items)];
  if (schema.additionalProperties) return ["map to ", ...type(schema.additionalProperties)];
  return [schema.const ? `"${schema.const}"` : (schema.format ?? schema.type ?? "anything")];
}

/** @param {Schema} schema @returns {string[]} */
function bounds(schema) {
  const { minimum, maximum, minLength, maxLength, maxItems, maxProperties } = schema;
  const most = maxItems ?? maxProperties;
  return [
    between(minimum, maximum, ""),
    between(minLength, maxLength, " characters"),
    most === undefined ? "" : `at most ${most}`,
  ];
}

/** @param {number | undefined} low @param {number | undefined} high @param {string} unit */
function between(low, high, unit) {
  if (high === undefined) return low === undefined ? "" : `at least ${low}${unit}`;
  return (low === undefined ? `at most ${high}` : `${low} to ${high}`) + unit;
}

try {
  const answer = await fetch(addressOf("/openapi.json"));
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  show(await answer.json());
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  byId("problem").textContent = `The reference cannot be loaded: ${error}`;
  byId("problem").hidden = false;
} finally {
  byId("reference").removeAttribute("aria-busy");
}
