// Small helpers for the document. Text is set, never parsed, so no message can become markup.

export const $ = (id) => document.getElementById(id);

/** Make an element: class, text or children, and attributes. */
export function make(tag, { className, text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Set text only when it differs: an unchanged write would still cost a layout. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or, with a nullish value, remove a data attribute, only when it differs. */
export function setData(element, name, value) {
  if (value === null || value === undefined) {
    if (name in element.dataset) delete element.dataset[name];
  } else if (element.dataset[name] !== value) {
    element.dataset[name] = value;
  }
}

/** One pressed button of a group; `onPick` gets the button. */
export function choices(group, onPick) {
  group.addEventListener("click", (event) => {
    const picked = event.target.closest("button");
    if (!picked) return;
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button === picked));
    }
    onPick(picked);
  });
}

export const calm = matchMedia("(prefers-reduced-motion: reduce)");
