// The list of accounts: ticking a whole page, coming back to the account that was opened, and keys.

const links = () => [...document.querySelectorAll(".one-line td a")];
const boxes = () => [...document.querySelectorAll("[name=account]")];

sessionStorage.setItem("list", location.pathname + location.search);
if (sessionStorage.getItem("returns")) links().find((one) => one.href === sessionStorage.getItem("opened"))?.focus();
sessionStorage.removeItem("returns");
document.addEventListener("click", ({ target }) => {
  if (links().includes(target)) sessionStorage.setItem("opened", target.href);
});

const ticked = document.getElementById("ticked");
const tickAll = document.querySelector("[data-tick]");
if (tickAll) {
  const say = () => {
    const count = boxes().filter((one) => one.checked).length;
    ticked.textContent = count ? `${count} ticked:` : "Ticked accounts:";
  };
  tickAll.hidden = false;
  tickAll.addEventListener("click", () => {
    const isTicking = boxes().some((one) => !one.checked);
    for (const box of boxes()) box.checked = isTicking;
    say();
  });
  document.addEventListener("change", say);
  window.addEventListener("pageshow", say);
}

// Single keys get in the way of speech control, so they can be switched off.
const keys = document.getElementById("keys");
const isOn = keys.querySelector("input");
isOn.checked = localStorage.getItem("keys") !== "off";
isOn.addEventListener("change", () => localStorage.setItem("keys", isOn.checked ? "on" : "off"));
const opener = document.querySelector("[data-keys]");
opener.hidden = false;
opener.addEventListener("click", () => keys.showModal());

function move(step) {
  const all = links();
  const at = all.findIndex((one) => one.closest("tr").contains(document.activeElement));
  all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)]?.focus();
}

const ACTS = {
  "/": () => document.getElementById("q").focus(),
  j: () => move(1),
  k: () => move(-1),
  x: () => document.activeElement.closest("tr")?.querySelector("[name=account]")?.click(),
  "?": () => keys.showModal(),
};
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !isOn.checked || keys.open) return;
  if (!(event.key in ACTS)) return;
  event.preventDefault();
  ACTS[event.key]();
});
