"use strict";
(() => {
  const stage = document.getElementById("stage");
  const swipe = document.getElementById("swipe");
  const opacity = document.getElementById("opacity");
  const text = (control) => document.getElementById(control.id + "-text");
  const show = () => {
    stage.style.setProperty("--swipe", swipe.value + "%");
    stage.style.setProperty("--opacity", String(opacity.value / 100));
    for (const control of [swipe, opacity]) {
      text(control).value = Math.round(control.value) + "\u202f%";
    }
  };
  swipe.addEventListener("input", show);
  opacity.addEventListener("input", show);
  // The edge follows finger or mouse on the picture; the slider below is for keyboards and does the same.
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    swipe.value = String((100 * (event.clientX - box.left)) / box.width);
    show();
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    follow(event);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  show();
})();
