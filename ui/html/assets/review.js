// Review links: guidelines in a dialog, remarks that fold, and the form with which a lead makes a link.
(() => {
  "use strict";
  const fold = (open) => {
    document.body.classList.toggle("icr-remarks", open);
    const button = document.getElementById("key-m");
    if (button) button.setAttribute("aria-expanded", String(document.body.classList.contains("icr-remarks")));
  };

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-open-dialog]");
    if (opener) document.getElementById(opener.dataset.openDialog).showModal();
    if (event.target.closest("#key-m")) fold();
    if (event.target.matches("dialog[open]")) event.target.close(); // beside it
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const field = copy.parentElement.querySelector("[data-address]");
      field.select();
      navigator.clipboard.writeText(field.value).then(() => { copy.textContent = "Copied"; }, () => {});
    }
  });

  document.addEventListener("change", (event) => {
    if (event.target.closest("#review #reasons") && event.target.checked) fold(true); // ticked by its key, unseen
  });

  // Both panes scroll by the keys of a page, unless one of them has the focus and scrolls alone.
  const STEPS = { " ": 0.85, PageDown: 0.85, PageUp: -0.85, ArrowDown: 0.12, ArrowUp: -0.12 };
  document.addEventListener("keydown", (event) => {
    const panes = document.querySelectorAll(".icr.review .sides > section");
    const isElsewhere = event.target.closest("input, textarea, select, summary, a, dialog, .sides, .question, button:not(#choices *)");
    if (!panes.length || isElsewhere || !(event.key in STEPS) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("#choices") && event.key === " ") return; // see votes.js
    event.preventDefault();
    const turn = event.key === " " && event.shiftKey ? -1 : 1;
    panes.forEach((pane) => pane.scrollBy({ top: turn * STEPS[event.key] * pane.clientHeight }));
  });

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-make-link]");
    if (!form) return;
    event.preventDefault();
    if (window.icrMakeLink) window.icrMakeLink(JSON.stringify(Object.fromEntries(new FormData(form))));
  });

  let item = null;
  new MutationObserver(() => {
    for (const field of document.querySelectorAll("[data-address]")) // how this browser reaches the inspector
      if (!field.value.startsWith(location.origin)) field.value = location.origin + field.dataset.address;
    const shown = document.querySelector(".icr.review [data-item]");
    const alias = shown && shown.dataset.item;
    if (alias === item) return;
    item = alias;
    fold(false);
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
