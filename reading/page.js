const rule = document.head.appendChild(document.createElement("style"));
let kept = null;
function light(symbol) {
  rule.textContent = symbol ? `[data-s="${symbol}"] { background: var(--lit); border-radius: 2px; }
    .math g[data-s="${symbol}"] rect { fill: var(--lit); stroke: var(--lit); stroke-width: 90; }` : "";
}
function at(event) {
  const found = event.target.closest("[data-s]");
  return found && found.dataset.s;
}
document.addEventListener("pointerover", event => light(at(event) || kept));
document.addEventListener("click", event => {
  if (event.target.closest("a, summary")) return;
  kept = at(event) === kept ? null : at(event);
  light(kept);
});
const wide = matchMedia("(min-width: 1640px)"), contents = document.querySelector("nav details");
wide.onchange = () => { contents.open = wide.matches; };
wide.onchange();
contents.addEventListener("click", event => {
  if (event.target.closest("a") && !wide.matches) contents.open = false;
});
