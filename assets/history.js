// The browser side of lab/ui/history/table.py: what is pressed in the table becomes an event, and the focus stays where
// it was when the table is drawn anew. `element` and `trigger` come from gradio.

element.addEventListener('click', event => {
  const at = selector => event.target.closest(selector);
  const order = at('[data-order]'), restore = at('[data-restore]'), row = at('[data-run]');
  if (at('td.tick')) return;
  if (order) trigger('order', {by: order.dataset.order});
  else if (restore) trigger('restore', {key: restore.dataset.restore});
  else if (at('[data-more]')) trigger('more');
  else if (row) trigger('pick', {run: row.dataset.run});
});
element.addEventListener('change', event => {
  if (!event.target.closest('[data-tick]')) return;
  const shown = ticks().map(tick => [tick.closest('[data-run]').dataset.run, tick.checked]);
  trigger('tick', {shown: Object.fromEntries(shown)});  // all of them: the newest event says what holds
});
const ticks = () => [...element.querySelectorAll('[data-tick]')];
// Where gradio changes the attribute alone, what a person ticked would stay.
new MutationObserver(() => { for (const tick of ticks()) tick.checked = tick.hasAttribute('checked'); })
  .observe(element, {childList: true, subtree: true, attributes: true, attributeFilter: ['checked']});

let last = null;  // what had the focus, by its name
element.addEventListener('focusin', event => { last = event.target.closest('[data-key]')?.dataset.key ?? null; });
element.addEventListener('focusout', event => { if (event.relatedTarget) last = null; });
document.addEventListener('pointerdown', event => { if (!element.contains(event.target)) last = null; });
new MutationObserver(() => {
  if (last === null || (document.activeElement !== document.body && document.activeElement?.isConnected)) return;
  element.querySelector(`[data-key="${CSS.escape(last)}"]`)?.focus({preventScroll: true});
}).observe(element, {childList: true, subtree: true});
