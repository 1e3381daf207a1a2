// Keys, on every page of an admin: which ones a page has follows from what is on it. Single keys get in the way of speech
// control, so they can be switched off.

const keys = document.getElementById("keys");
const isOn = keys.querySelector("input");
isOn.checked = localStorage.getItem("keys") !== "off";
isOn.addEventListener("change", () => localStorage.setItem("keys", isOn.checked ? "on" : "off"));
const opener = document.querySelector("[data-keys]");
opener.addEventListener("click", show);

function show() {
  for (const term of keys.querySelectorAll("dt")) {
    term.hidden = term.nextElementSibling.hidden = term.textContent !== "?" && !find(term.textContent[0]);
  }
  keys.showModal();
}

const ROW = ".accounts tbody tr, .rows li";
function move(step) {
  const links = [...document.querySelectorAll(ROW)].map((one) => one.querySelector("a")).filter(Boolean);
  const at = links.findIndex((one) => one.closest(ROW).contains(document.activeElement));
  links[at < 0 ? 0 : Math.min(Math.max(at + step, 0), links.length - 1)].focus();
}

// What a key needs on the page, and what it does with that.
const ACTS = {
  "/": ["[type=search]", (field) => field.focus()],
  j: [`:is(${ROW}) a`, () => move(1)],
  k: [`:is(${ROW}) a`, () => move(-1)],
  x: [".one-line [type=checkbox]", () => document.activeElement.closest("tr")?.querySelector("[type=checkbox]")?.click()],
  u: [".trail a", (link) => link.click()],
  "?": ["#keys", show],
};
const find = (key) => document.querySelector(ACTS[key][0]);
opener.hidden = !Object.keys(ACTS).some((key) => key !== "?" && find(key));

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=checkbox], [type=radio]), textarea, select");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !isOn.checked || keys.open) return;
  const found = event.key in ACTS && !opener.hidden && find(event.key);
  if (!found) return;
  event.preventDefault();
  ACTS[event.key][1](found);
});
