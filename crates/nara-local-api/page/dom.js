// Creates elements without parsing HTML: text of peers stays text, whatever it contains.

const SVG = "http://www.w3.org/2000/svg";

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};

export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

/** A card with a heading; `note` is beside it. */
export const card = (title, note, ...children) =>
  make("section", { class: "card" }, make("header", {}, make("h2", {}, title), note), children);

export const empty = (title, text) => make("p", { class: "empty" }, make("strong", {}, title), text);

/** A table with a caption for screen readers. A column is a name, or a name and a class. */
export const table = (caption, columns, rows) => {
  const head = columns.map((column) => {
    const [name, kind] = [column].flat();
    return make("th", { scope: "col", class: kind }, name);
  });
  const scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption, "data-focus": caption });
  scroll.append(
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows)),
  );
  return scroll;
};

/** Replaces the content of an element, and restores the focus if the focused element still exists. */
export const show = (place, ...children) => {
  const active = document.activeElement;
  const key = place.contains(active) ? active.dataset.focus : undefined;
  place.replaceChildren(...children.filter(Boolean));
  if (key === undefined) return;
  for (const candidate of place.querySelectorAll("[data-focus]")) {
    if (candidate.dataset.focus === key) return candidate.focus({ preventScroll: true });
  }
};

let speaking;
/** Announces a text to screen readers, at most once in three seconds. */
export const say = (text) => {
  clearTimeout(speaking);
  speaking = setTimeout(() => { byId("spoken").textContent = text; }, 3000);
};
