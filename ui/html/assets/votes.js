// A verdict is what a person meant: on an item that she has seen, once for each press of a key or button.
(() => {
  "use strict";
  const GUARD_MS = 400, ANSWER_MS = 5000;
  let seenSince = Infinity; // when the item was first painted, as event.timeStamp counts
  let began = null; // when the press began that a click ends
  let sentAt = -Infinity; // of a click that is not answered yet
  let isOnButton = false; // whether the last verdict came by a key on a focused button, where the focus is to stay

  const ofVote = (element) => element instanceof Element && element.closest("#choices button");
  const stop = (event) => { event.preventDefault(); event.stopImmediatePropagation(); };
  const isAnswered = (now) => now > sentAt + ANSWER_MS;

  const focusItem = () => {
    const main = document.querySelector(".icr #main");
    if (main) main.focus({ preventScroll: true });
  };

  document.addEventListener("icr-rendered", () => {
    sentAt = -Infinity;
    seenSince = Infinity;
    const item = document.querySelector(".icr [data-item]");
    document.body.classList.toggle("icr-guard", !!item);
    if (!item) return;
    // Frames are painted only while the page is in sight: one that is rendered in the background is seen when she comes back.
    requestAnimationFrame(() => requestAnimationFrame((now) => {
      if (document.querySelector(".icr [data-item]") !== item) return;
      seenSince = now;
      setTimeout(() => { if (seenSince === now) document.body.classList.remove("icr-guard"); }, GUARD_MS);
    }));
    // The focus leaves the button and the name, so that neither Space nor a figure goes there; never a field that she is writing in.
    const active = document.activeElement;
    const isWriting = active && /^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName) && !active.closest("#reviewer, form[data-view]");
    if (!isWriting && !(isOnButton && ofVote(active))) focusItem();
  });

  // What goes wrong is said without a new rendering: the buttons work again.
  new MutationObserver((changes) => {
    if (changes.some((change) => change.target instanceof Element && change.target.closest("#verdict-status"))) sentAt = -Infinity;
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });

  const pressed = (event) => { began = event.timeStamp; };
  document.addEventListener("pointerdown", pressed, true);
  document.addEventListener("keydown", (event) => {
    if (!event.repeat) pressed(event);
    if (!ofVote(event.target)) return;
    if (event.key === "Enter" && event.repeat) stop(event); // a browser clicks again for every repetition
    if (event.code === "Space" && !isFocusedSince()) {
      stop(event); // she scrolls, as on any page: the button has the focus from the item before
      if (!event.repeat) window.scrollBy({ top: 0.85 * window.innerHeight });
    }
  }, true);
  document.addEventListener("keyup", (event) => {
    if (ofVote(event.target) && event.code === "Space" && !isFocusedSince()) stop(event); // Firefox clicks here all the same
  }, true);

  let focusedAt = -Infinity;
  const isFocusedSince = () => focusedAt >= seenSince;
  document.addEventListener("focusin", (event) => { if (ofVote(event.target)) focusedAt = event.timeStamp; });

  // All ways to press a button end in a click: mouse, finger, pen, Enter, Space, the keys of the table, a screen reader.
  document.addEventListener("click", (event) => {
    const button = ofVote(event.target);
    if (!button) return;
    const start = began === null ? event.timeStamp : began;
    const byKeyboard = event.detail === 0 && document.activeElement === button;
    began = null;
    const isUndo = button.id === "key-z";
    const isShown = !document.querySelector(".icr [data-item]") ? isUndo : start >= seenSince + GUARD_MS;
    if (!isShown || !isAnswered(event.timeStamp)) return stop(event);
    sentAt = event.timeStamp;
    isOnButton = byKeyboard;
  }, true);

  // The name is written: what she types next is about the item, even before it is there. Gradio listens to this event too, before it
  // comes here; an input method that is still composing sends none.
  document.addEventListener("keypress", (event) => {
    if (event.key === "Enter" && event.target instanceof Element && event.target.closest("#reviewer")) focusItem();
  });
})();
