"use strict";
// Draws the description that stands in the page. Nothing is fetched, nothing is stored, text goes in as text only.
(() => {
  const api = JSON.parse(document.getElementById("document").textContent);
  const groups = document.getElementById("groups");
  const nav = document.getElementById("nav");
  const way = document.getElementById("way");
  const METHODS = ["get", "post", "put", "delete"];
  const isPage = location.protocol === "http:" || location.protocol === "https:";
  const origin = isPage ? location.origin : "http://127.0.0.1:8080";

  function make(tag, attributes, ...children) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") found.className = value;
      else found.setAttribute(name, value);
    }
    found.append(...children.filter((child) => child !== null && child !== undefined));
    return found;
  }

  // Texts say `code` between backticks.
  function text(value) {
    const parts = String(value || "").split("`");
    return make("span", null, ...parts.map((part, index) => (index % 2 ? make("code", null, part) : part)));
  }

  function resolve(value) {
    let found = value;
    while (found && found.$ref) {
      found = found.$ref.slice(2).split("/").reduce((node, word) => node[word], api);
    }
    return found || {};
  }

  const nameOf = (schema) => (schema.$ref ? schema.$ref.split("/").pop() : "");

  function kindOf(schema) {
    if (schema.$ref) return make("a", { href: "#shape-" + nameOf(schema) }, nameOf(schema));
    const choices = schema.anyOf || schema.oneOf;
    if (choices) {
      const parts = choices.flatMap((choice, index) => (index ? [" or ", kindOf(choice)] : [kindOf(choice)]));
      return make("span", null, ...parts);
    }
    if ("const" in schema) return make("span", null, JSON.stringify(schema.const));
    if (schema.enum) return make("span", null, schema.enum.map((word) => JSON.stringify(word)).join(" | "));
    if (schema.type === "array") return make("span", null, "list of ", kindOf(schema.items || {}));
    if (schema.type === "object" && typeof schema.additionalProperties === "object" && !schema.properties) {
      return make("span", null, "map to ", kindOf(schema.additionalProperties));
    }
    if (schema.contentEncoding) return make("span", null, schema.contentEncoding);
    return make("span", null, schema.type ? [].concat(schema.type).join(" or ") : "any JSON");
  }

  function limits(schema) {
    const words = [];
    if (schema.minLength) words.push("at least " + schema.minLength + " characters");
    if (schema.maxLength) words.push("at most " + schema.maxLength + " characters");
    if (schema.minimum !== undefined) words.push("from " + schema.minimum);
    if (schema.maximum !== undefined) words.push("up to " + schema.maximum);
    if (schema.default !== undefined) words.push("default " + JSON.stringify(schema.default));
    if (schema.format) words.push(schema.format);
    return words.length ? make("span", { class: "kind" }, " · " + words.join(", ")) : null;
  }

  // The shapes in which a schema can be opened further, innermost first.
  function below(schema) {
    if (schema.$ref) return [schema];
    if (schema.items) return below(schema.items);
    if (schema.properties) return [schema];
    if (typeof schema.additionalProperties === "object") return below(schema.additionalProperties);
    return (schema.anyOf || schema.oneOf || []).flatMap(below);
  }

  function lazily(details, draw) {
    details.addEventListener("toggle", () => {
      if (details.open && !details.dataset.drawn) {
        details.dataset.drawn = "yes";
        details.append(draw());
      }
    });
    return details;
  }

  function fields(schema) {
    const whole = resolve(schema);
    const list = make("ul", { class: "fields" });
    if (whole.oneOf || whole.anyOf) {
      for (const choice of whole.oneOf || whole.anyOf) list.append(make("li", null, kindOf(choice), fields(choice)));
      return list;
    }
    const needed = new Set(whole.required || []);
    for (const [name, field] of Object.entries(whole.properties || {})) {
      const line = [
        make("code", null, name),
        needed.has(name) ? make("span", { class: "must" }, "required") : null,
        make("span", { class: "kind" }, "  ", kindOf(field)),
        limits(field),
      ];
      const inner = below(field);
      if (inner.length) {
        const details = make("details", null, make("summary", null, ...line));
        list.append(make("li", null, lazily(details, () => make("div", null, ...inner.map(fields)))));
      } else list.append(make("li", null, ...line));
    }
    return list;
  }

  function quoted(value) {
    return "'" + value.replaceAll("'", "'\\''") + "'";
  }

  function command(route) {
    const query = (route.operation.parameters || [])
      .filter((each) => each.in === "query" && each.required)
      .map((each) => each.name + "=" + each.name.toUpperCase());
    const path = route.path.replace(/\{(\w+)\}/g, (_, word) => "$" + word.toUpperCase());
    const target = path + (query.length ? "?" + query.join("&").replaceAll("=CLIENT_ID", "=$CLIENT_ID") : "");
    const lines = ["curl -sS"];
    if (route.streams) lines[0] += "N";
    if (route.method !== "get") lines[0] += " -X " + route.method.toUpperCase();
    if (way.value === "unix") lines.push('--unix-socket "$XDG_RUNTIME_DIR/bulkhead.sock"');
    else lines.push('-H "Authorization: Bearer $TOKEN"');
    if (route.body && route.body.example !== undefined) {
      lines.push("-H 'Content-Type: application/json'", "-d " + quoted(JSON.stringify(route.body.example)));
    }
    lines.push('"' + (way.value === "unix" ? "http://localhost" : origin) + target + '"');
    return lines.join(" \\\n  ");
  }

  function copyable(route) {
    const shown = make("pre", null, command(route));
    const button = make("button", { type: "button" }, "copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(shown.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(shown);
        button.textContent = "selected";
      }
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
    way.addEventListener("change", () => { shown.textContent = command(route); });
    return make("div", { class: "copying" }, shown, button);
  }

  function inside(route) {
    const box = make("div", { class: "inside" });
    const { operation } = route;
    if (operation.parameters) {
      const rows = operation.parameters.map((each) =>
        make("tr", null,
          make("td", null, make("code", null, each.name), each.required ? make("span", { class: "must" }, "required") : null),
          make("td", { class: "kind" }, each.in),
          make("td", null, text(each.description), make("span", { class: "kind" }, "  ", kindOf(each.schema)), limits(each.schema))));
      box.append(make("h3", null, "Parameters"), make("table", null, make("tbody", null, ...rows)));
    }
    if (route.body) {
      const optional = operation.requestBody.required ? "" : ", may be left out";
      box.append(make("h3", null, "Body" + optional), make("div", null, kindOf(route.body.schema)), fields(route.body.schema));
    }
    for (const [status, given] of Object.entries(operation.responses).filter(([word]) => word < "300")) {
      const [media, what] = Object.entries(given.content || {})[0] || [];
      box.append(make("h3", null, "Answer " + status));
      if (!what) box.append(make("p", { class: "note" }, "empty"));
      else if (media !== "application/json") {
        box.append(make("p", { class: "note" }, media + ". ", text(what.schema.description)));
        const each = what.schema.properties?.data?.contentSchema;
        if (each) box.append(make("div", null, kindOf(each), " in each ", make("code", null, "data:")), fields(each));
      } else box.append(make("div", null, kindOf(what.schema)), ...below(what.schema).map(fields));
    }
    const errors = Object.entries(operation.responses).filter(([word]) => word >= "400").map(([status, given]) => {
      const whole = resolve(given);
      const words = whole.content["application/json"].schema.properties.code.enum;
      return make("tr", null, make("td", null, make("code", null, status)),
        make("td", null, ...words.map((word) => make("span", { class: "chip" }, word))),
        make("td", { class: "kind" }, text(whole.description)));
    });
    box.append(make("h3", null, "Errors"), make("table", null, make("tbody", null, ...errors)));
    box.append(make("h3", null, "Try it"), copyable(route));
    return box;
  }

  function pathOf(path) {
    const parts = path.split(/(\{\w+\})/);
    return make("span", { class: "path" }, ...parts.map((part, index) => (index % 2 ? make("i", null, part) : part)));
  }

  const routes = [];
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((word) => methods[word])) {
      const operation = methods[method];
      const errors = Object.values(operation.responses).map(resolve)
        .flatMap((given) => given.content?.["application/json"]?.schema?.properties?.code?.enum || []);
      routes.push({
        path, method, operation, tag: operation.tags[0],
        body: operation.requestBody?.content["application/json"],
        streams: "text/event-stream" in (operation.responses["200"]?.content || {}),
        words: [method, path, operation.operationId, operation.summary, operation.tags[0], ...errors].join(" ").toLowerCase(),
      });
    }
  }

  for (const { name, description } of api.tags) {
    const mine = routes.filter((route) => route.tag === name);
    const section = make("section", null, make("h2", null, name), make("p", { class: "note" }, text(description)));
    const links = make("div", null, make("h2", null, name));
    for (const route of mine) {
      const id = route.operation.operationId;
      const details = make("details", { class: "route", id },
        make("summary", null, make("span", { class: "method " + route.method }, route.method.toUpperCase()),
          pathOf(route.path), make("span", { class: "said" }, text(route.operation.summary))));
      route.details = lazily(details, () => inside(route));
      route.link = make("a", { href: "#" + id, title: route.operation.summary }, id.replaceAll("_", " "));
      section.append(details);
      links.append(route.link);
    }
    groups.append(section);
    nav.append(links);
  }

  const shapes = document.getElementById("shapes");
  shapes.append(make("h2", null, "shapes"), make("p", { class: "note" }, "What the routes take and give, by name."));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const details = make("details", { class: "shape", id: "shape-" + name },
      make("summary", null, make("code", null, name), make("span", { class: "said" }, text((schema.description || "").split("\n")[0]))));
    shapes.append(lazily(details, () => make("div", { class: "inside" }, text(schema.description), fields(schema))));
  }

  function search(value) {
    const wanted = value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const route of routes) {
      const fits = wanted.every((word) => route.words.includes(word));
      route.details.hidden = route.link.hidden = !fits;
      found += fits;
    }
    for (const box of [...groups.children, ...nav.children]) {
      box.hidden = !box.querySelector("details:not([hidden]), a:not([hidden])");
    }
    shapes.hidden = wanted.length > 0;
    document.getElementById("nothing").hidden = found > 0;
  }

  function openNamed() {
    const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (found && found.tagName === "DETAILS") {
      found.open = true;
      found.scrollIntoView();
    }
  }

  const field = document.getElementById("search");
  field.addEventListener("input", () => search(field.value));
  addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== field) {
      event.preventDefault();
      field.focus();
    }
  });
  addEventListener("hashchange", openNamed);
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });
  document.getElementById("version").textContent = "API of " + api.info.version;
  document.getElementById("about").append(text(api.info.description.trim().replaceAll("\n", " ")));
  if (isPage) way.value = "tcp";
  openNamed();
})();
