// Texts formatted or as they were written, and what differs marked or not: a person's choice, kept in the browser for all pages. And what a
// narrow screen folds.
(() => {
  "use strict";
  const CLASSES = { written: "icr-written", marks: "icr-unmarked" };

  const show = () => document.querySelectorAll(".icr [data-toggle]").forEach((button) => {
    button.setAttribute("aria-pressed", document.body.classList.contains(CLASSES[button.dataset.toggle]));
  });

  document.addEventListener("click", (event) => {
    const name = CLASSES[event.target.closest(".icr [data-toggle]")?.dataset.toggle];
    if (!name) return;
    const on = document.body.classList.toggle(name);
    try { localStorage.setItem(name, on ? "1" : ""); } catch (error) { /* private window: not remembered */ }
    show();
  });

  document.addEventListener("DOMContentLoaded", () => {
    try { Object.values(CLASSES).forEach((name) => document.body.classList.toggle(name, Boolean(localStorage.getItem(name)))); }
    catch (error) { /* private window */ }
  });
  let isUnfolded = false; // by hand, on a phone: a filter that was changed renders the page again
  const fold = () => {
    const filters = document.querySelector(".icr .fold");
    if (!filters) return;
    const isNarrow = matchMedia("(max-width: 600px)").matches;
    filters.open = !isNarrow || isUnfolded;
    filters.addEventListener("toggle", () => { if (isNarrow) isUnfolded = filters.open; });
  };

  document.addEventListener("icr-rendered", () => { show(); fold(); });
})();
