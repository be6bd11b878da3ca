"""One step each, in the order that `down_revision` gives. A step that was released is never changed: the next one follows it."""
