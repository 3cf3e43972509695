// Lists the routes of openapi.json: parameters, body, answers.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** A schema in a few words: `number`, `[Position]`, `"BUY" | "SELL"`. */
function words(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if ("const" in schema) return JSON.stringify(schema.const);
  const several = schema.oneOf ?? schema.anyOf;
  if (several) return several.map(words).join(" | ");
  if (schema.type === "array") return `[${words(schema.items ?? schema.prefixItems?.[0])}]`;
  if (schema.type === "object" && schema.additionalProperties) {
    return `{name: ${words(schema.additionalProperties)}}`;
  }
  const limits = [
    ["minimum", "≥"], ["exclusiveMinimum", ">"], ["maximum", "≤"], ["exclusiveMaximum", "<"],
  ].filter(([name]) => name in schema).map(([name, sign]) => `${sign} ${schema[name]}`);
  return [schema.type ?? "any", ...limits].join(" ");
}

function table(heads, rows) {
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((cell) => element("td", {}, cell ?? ""))));
  return element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", {}, head)))),
    element("tbody", {}, ...body));
}

function contentOf(answer) {
  return Object.entries(answer.content ?? {})
    .map(([kind, { schema }]) => (kind === "application/json" ? words(schema) : kind)).join(", ");
}

function operation(path, method, found) {
  const parts = [];
  if (found.description) parts.push(element("p", {}, found.description));
  if (found.parameters?.length) {
    parts.push(table(["parameter", "in", "type", ""], found.parameters.map((parameter) => [
      parameter.name + (parameter.required ? "" : " (optional)"),
      parameter.in, words(parameter.schema), parameter.description])));
  }
  if (found.requestBody) parts.push(element("p", {}, `Body: ${contentOf(found.requestBody)}`));
  parts.push(table(["status", "answer", "body"], Object.entries(found.responses).map(
    ([status, answer]) => [status, answer.description, contentOf(answer)])));
  return element("details", {},
    element("summary", {},
      element("span", { className: "method" }, method.toUpperCase()),
      element("span", { className: "path" }, path),
      element("span", {}, found.summary ?? ""),
      element("span", { className: "lock" }, found.security ? "needs a session" : "")),
    element("div", {}, ...parts));
}

function schemas(components) {
  return Object.entries(components ?? {}).map(([name, schema]) =>
    element("details", {},
      element("summary", {}, element("span", { className: "path" }, name),
        element("span", {}, schema.description ?? "")),
      element("div", {}, table(["field", "type", ""],
        Object.entries(schema.properties ?? {}).map(([field, type]) => [
          field + (schema.required?.includes(field) ? "" : " (optional)"),
          words(type), type.description])))));
}

try {
  const answer = await fetch("/docs/openapi.json");
  if (!answer.ok) throw new Error(`The gateway answered ${answer.status}.`);
  const found = await answer.json();
  const groups = new Map();
  for (const [path, item] of Object.entries(found.paths)) {
    for (const method of METHODS) {
      if (!item[method]) continue;
      const group = item[method].tags?.[0] ?? "Other";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(operation(path, method, item[method]));
    }
  }
  const lists = [...groups].flatMap(([name, list]) => [element("h2", {}, name), ...list]);
  document.getElementById("routes").replaceChildren(
    ...lists, element("h2", {}, "Objects"), ...schemas(found.components?.schemas));
} catch (error) {
  document.getElementById("status").textContent =
    `The description cannot be read: ${error.message} Reload to try again.`;
}
