// Elements from text, never from markup: names of files and classes are a stranger's.

const SVG = "http://www.w3.org/2000/svg";

/** element("p", {class: "quiet", onclick: f, style: {width: "3px"}}, "text", child) */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") for (const [key, own] of Object.entries(value)) made.style.setProperty(key, own);
    else if (name.startsWith("on")) made[name] = value;
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** One of the shapes at the end of index.html. */
export function shape(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 48 48");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}
