// A list, of accounts or of invitations: ticking a whole page, and coming back to the row that was opened.

const links = () => [...document.querySelectorAll(".one-line td a")];
const boxes = () => [...document.querySelectorAll(".one-line [type=checkbox]")];

sessionStorage.setItem(location.pathname, location.pathname + location.search);
if (sessionStorage.getItem("returns")) links().find((one) => one.href === sessionStorage.getItem("opened"))?.focus();
sessionStorage.removeItem("returns");
document.addEventListener("click", ({ target }) => {
  if (links().includes(target)) sessionStorage.setItem("opened", target.href);
});

const ticked = document.getElementById("ticked");
const tickAll = document.querySelector("[data-tick]");
if (tickAll) {
  const none = ticked.textContent;
  const say = () => {
    const count = boxes().filter((one) => one.checked).length;
    ticked.textContent = count ? `${count} ticked:` : none;
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
