"use strict";
(() => {
  const form = document.getElementById("flip-filter");
  if (!form) return;
  const rows = Array.from(document.querySelectorAll("#flip-rows > tr"));
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const status = document.getElementById("flip-status");
  const fields = ["task", "variant", "direction"];
  const apply = () => {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      const fits =
        fields.every((name) => {
          const wanted = form.elements[name].value;
          return wanted === "" || row.dataset[name] === wanted;
        }) && words.every((word) => texts[index].includes(word));
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    status.textContent = `${shown} of ${rows.length} shown`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  form.hidden = false;
  apply();
})();
