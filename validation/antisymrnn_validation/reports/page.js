const form = document.getElementById("filter"), claims = [...document.querySelectorAll("details.claim")];
function filter() {
  const verdict = form.elements.verdict.value, text = form.elements.text.value.trim().toLowerCase();
  for (const claim of claims) {
    claim.hidden = (verdict && claim.dataset.verdict !== verdict) || !claim.textContent.toLowerCase().includes(text);
  }
  const shown = claims.filter((claim) => !claim.hidden).length;
  document.getElementById("shown").textContent = `${shown} of ${claims.length} claims shown`;
}
function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.matches("details")) { target.hidden = false; target.open = true; target.scrollIntoView(); }
}
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", follow);
function reach() {
  for (const box of document.querySelectorAll("[role=region]")) box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
}
addEventListener("resize", reach);
addEventListener("toggle", reach, true);
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
  if (window.Plotly) Plotly.relayout("errors", { width: 650 });
});
addEventListener("afterprint", () => {
  for (const one of opened) one.open = false;
  if (window.Plotly) Plotly.relayout("errors", { width: null, autosize: true });
});
filter();
follow();
reach();
