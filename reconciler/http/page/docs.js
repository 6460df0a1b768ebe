// Shows the routes of openapi.json for people. Everything is inserted as text: nothing in the description becomes markup.
"use strict";

function element(name, content, className) {
  const made = document.createElement(name);
  made.append(...[content ?? []].flat());
  if (className) made.className = className;
  return made;
}

function table(headings, rows) {
  const head = element("tr", headings.map((heading) => {
    const cell = element("th", heading);
    cell.scope = "col";
    return cell;
  }));
  const body = rows.map((cells) => element("tr", cells.map((cell) => element("td", cell))));
  const wide = element("div", element("table", [element("thead", head), element("tbody", body)]), "wide");
  wide.tabIndex = 0;
  return wide;
}

// `code` and **strong** are the only markup that the descriptions use.
function inlineMarkup(text) {
  return (text ?? "").split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`")) return element("code", part.slice(1, -1));
    if (part.startsWith("**")) return element("strong", part.slice(2, -2));
    return part;
  });
}

function prose(text) {
  return (text ?? "").split(/\n\s*\n/).map((paragraph) => element("p", inlineMarkup(paragraph)));
}

function resolved(api, schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ? api.components.schemas[name] : schema ?? {};
}

// One line for a schema: the name of a model, or a type with its format.
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return either.map(kind).join(" | ");
  if (schema.type === "array") return `${kind(schema.items)}[]`;
  return [schema.type ?? "any", schema.format && `(${schema.format})`].filter(Boolean).join(" ");
}

function example(api, content) {
  const schema = resolved(api, content.schema);
  const found = content.example ?? Object.values(content.examples ?? {})[0]?.value ?? schema.example ?? schema.examples?.[0];
  return found === undefined ? [] : [element("pre", typeof found === "string" ? found : JSON.stringify(found, null, 2))];
}

function members(api, schema) {
  const { properties, required = [] } = resolved(api, schema);
  if (!properties) return [];
  return [table(["member", "type", ""], Object.entries(properties).map(([name, one]) => [
    element("code", name), kind(one), [required.includes(name) ? "" : "optional. ", ...inlineMarkup(one.description)],
  ]))];
}

function bodies(api, contents) {
  return Object.entries(contents ?? {}).flatMap(([type, content]) => [
    element("p", [element("code", type), " ", kind(content.schema)], "quiet"),
    ...members(api, content.schema),
    ...example(api, content),
  ]);
}

function parameterTable(operation) {
  const parameters = operation.parameters ?? [];
  if (!parameters.length) return [];
  return [element("h4", "Parameters"), table(["name", "in", "type", ""], parameters.map((one) => [
    element("code", one.name), one.in, kind(one.schema), [one.required ? "" : "optional. ", ...inlineMarkup(one.description)],
  ]))];
}

// Successful answers in full, errors in a table: all errors have one format.
function responseTables(api, operation) {
  const all = Object.entries(operation.responses);
  const good = all.filter(([status]) => status < "400").flatMap(([status, one]) => [
    element("h4", `${status} ${one.description}`), ...bodies(api, one.content),
  ]);
  const bad = all.filter(([status]) => status >= "400").map(([status, one]) => [status, inlineMarkup(one.description)]);
  return bad.length ? [...good, element("h4", "Errors"), table(["status", "when"], bad)] : good;
}

function callers(operation) {
  const schemes = (operation.security ?? []).flatMap((one) => Object.keys(one));
  return schemes.length ? `who: ${schemes.join(" or ")}` : "who: no token";
}

function route(api, path, method, operation) {
  const summary = element("summary", [element("code", `${method.toUpperCase()} ${path}`), operation.summary ?? ""]);
  const sent = operation.requestBody
    ? [element("h4", "Body"), ...bodies(api, operation.requestBody.content)]
    : [];
  return element("details", [
    summary, element("p", callers(operation), "quiet"), ...prose(operation.description),
    ...parameterTable(operation), ...sent, ...responseTables(api, operation),
  ]);
}

function section(api, tag) {
  const found = Object.entries(api.paths).flatMap(([path, operations]) =>
    Object.entries(operations)
      .filter(([, operation]) => (operation.tags ?? ["other"]).includes(tag.name))
      .map(([method, operation]) => route(api, path, method, operation)));
  return found.length ? [element("h2", tag.name), ...prose(tag.description), ...found] : [];
}

function problem(api) {
  return [element("h2", "errors"), ...bodies(api, {
    "application/problem+json": { schema: { $ref: "#/components/schemas/ProblemDetails" } },
  })];
}

async function show() {
  const state = document.getElementById("state");
  try {
    const answer = await fetch("openapi.json");
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const api = await answer.json();
    const tags = [...api.tags, { name: "other" }];
    document.getElementById("routes").append(
      ...prose(api.info.description), ...tags.flatMap((tag) => section(api, tag)), ...problem(api),
    );
    state.replaceChildren(`Version ${api.info.version}. For programs: `, state.querySelector("a"));
  } catch (error) {
    state.textContent = `The description could not be read: ${error.message}`;
  }
}

show();
