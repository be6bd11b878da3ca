// Keys press what is on the page, by the table in window.icrKeys (ui/pages/keys.py).
(() => {
  "use strict";
  const KEYS = window.icrKeys;

  // A checkbox or a button takes no text, so that keys go on working while it has the focus.
  const isTyping = (element) => element && (element.isContentEditable
    || (/^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName) && !/^(checkbox|radio|button|submit)$/.test(element.type)));

  const targetOf = (key) => document.querySelectorAll(key.target)[key.nth];

  // What is printed on the key decides where the table has it; else its place does: on Cyrillic, Thai or Arabic keyboards, and for the
  // figures of a French one. Shift with another sign is another key.
  const rowOf = (event) => {
    const here = KEYS.filter((key) => targetOf(key));
    const sign = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const place = (event.shiftKey ? "Shift+" : "") + event.code;
    return here.find((key) => key.sign === sign) || here.find((key) => key.place === place);
  };

  const help = () => document.querySelector(".icr dialog[data-keys]");
  const toggleHelp = () => {
    const dialog = help();
    if (!dialog) return;
    if (dialog.open) return dialog.close();
    // Only what this page has.
    dialog.querySelectorAll("tr[data-key-number]").forEach((row) => { row.hidden = !targetOf(KEYS[row.dataset.keyNumber]); });
    dialog.showModal();
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest(".icr [data-help], .icr dialog[data-keys] button")) toggleHelp();
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.getModifierState("AltGraph") || event.isComposing || event.defaultPrevented) return;
    if (isTyping(document.activeElement)) {
      if (event.key === "Escape") document.activeElement.blur();
      return;
    }
    const key = rowOf(event);
    const opened = document.querySelector(".icr dialog[open]"); // what lies behind it is not pressed
    if (opened && !(opened === help() && key?.sign === "?")) return;
    if (!key || (key.needs_item && !document.querySelector(".icr [data-item]"))) return;
    event.preventDefault();
    if (event.repeat) return; // a key that is held down was pressed once
    const target = targetOf(key);
    if (isTyping(target)) target.focus();
    else if (!target.disabled) target.click();
  });
})();
