// What belongs to the page and to no component of gradio: light or dark, addresses of tabs and runs, keys of the
// tab row, the way to a field, where the focus goes, and names that gradio forgets. Runs in the page's head.

(() => {
const LOOK = 'grpo-lab-look', RUN = 'grpo-lab-run';
const RUN_ID = /^[\p{L}\p{N}][^/\\:*?"<>|\p{C}]{0,199}$/u;
const tabs = () => [...document.querySelectorAll('#tabs > .tab-wrapper [role=tab]')];
const tabOf = () => tabs().find(tab => tab.getAttribute('aria-selected') === 'true')?.dataset.tabId || '';

// --- light and dark: what the person chose here, else what the system says ---

const asked = new URLSearchParams(location.search).get('__theme');
function look(chosen) {
  if (chosen && document.body) document.body.classList.toggle('dark', chosen === 'dark');
  document.querySelector('#look')?.setAttribute('aria-pressed', String(document.body?.classList.contains('dark')));
}
function store(key, value) { try { localStorage.setItem(key, value); } catch { /* it holds for this page alone */ } }
function stored(key) { try { return localStorage.getItem(key); } catch { return null; } }

// --- addresses: #train, #train/RUN ---

function address() {
  const tab = tabOf(), run = tab === 'train' ? sessionStorage.getItem(RUN) : '';
  return '#' + tab + (run ? '/' + encodeURIComponent(run) : '');
}
function go() {  // where the address says
  let [tab, run] = location.hash.slice(1).split('/');
  try { run = run && decodeURIComponent(run); } catch { run = ''; }
  const button = tabs().find(one => one.dataset.tabId === tab);
  if (!button) return;
  if (tab === 'train' && (run || sessionStorage.getItem(RUN)) && (!run || RUN_ID.test(run))) {
    run ? sessionStorage.setItem(RUN, run) : sessionStorage.removeItem(RUN);
    window.dispatchEvent(new CustomEvent('grpo-lab-show', {detail: run || ''}));
  }
  if (tab !== tabOf()) button.click();
}
window.addEventListener('hashchange', () => { go(); window.labFocus('#tab-' + tabOf()); });
// The live view shows another run: the address says which.
window.addEventListener('grpo-lab-shown', () => { if (tabOf() === 'train') history.replaceState(null, '', address()); });

// --- the row of tabs: one stop, arrows inside ---

let settled = false;  // gradio opens the first tab once more while it builds the page
let marked = '';      // the tab whose address was last made
function mark() {
  const now = tabOf();
  if (!now || !settled) return;
  for (const tab of tabs()) tab.tabIndex = tab.dataset.tabId === now ? 0 : -1;
  if (now === marked) return;  // where it is not the address's: that has just changed, and the tab follows it
  marked = now;
  if (location.hash.slice(1).split('/')[0] !== now && (location.hash || now !== 'start')) history.pushState(null, '', address());
}
document.addEventListener('keydown', event => {
  const here = tabs().indexOf(event.target);
  if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  const last = tabs().length - 1;
  const to = {ArrowRight: here === last ? 0 : here + 1, ArrowLeft: here === 0 ? last : here - 1, Home: 0, End: last}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs()[to];
  tab.click(); tab.focus();
});

// --- the focus, and the way to a field ---

const seen = node => node && node.getClientRects().length > 0 && !node.disabled;
const CONTROL = 'button, input, textarea, select, a[href], summary, [tabindex]';
function focus(node) {
  if (!node.matches(CONTROL)) node.tabIndex = -1;
  node.focus({preventScroll: !node.matches(CONTROL)});
}
// A panel beside the live view follows what that shows; it may be made before it.
window.labFollow = (element, attributes, look) => {
  const looking = setInterval(() => {
    if (!element.isConnected) return clearInterval(looking);
    const live = document.getElementById('live');
    if (!live) return;
    clearInterval(looking);
    new MutationObserver(() => look(live)).observe(live, {attributes: true, attributeFilter: attributes});
    look(live);
  }, 200);
};
// Focus what this selector names, as soon as it is there and can be used, and what `hold` names until then. A person
// who has moved on is left alone.
window.labFocus = (selector, patience = 8000, hold = null) => {
  const end = Date.now() + patience, before = document.activeElement;
  (function look() {
    const now = document.activeElement, held = hold && document.querySelector(hold), goal = document.querySelector(selector);
    if (now && ![document.body, before, held].includes(now) && now.isConnected && seen(now)) return;
    if (seen(goal)) return focus(goal);
    if (seen(held) && now !== held) focus(held);
    if (Date.now() < end) setTimeout(look, 60);
  })();
};
// Open the tab and the sections around a field, and put the cursor into it.
async function reach(id, where) {
  const tab = tabs().find(one => one.dataset.tabId === where);
  if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
  for (let i = 0; i < 60; i++) {
    const field = document.getElementById(id);
    const input = field?.querySelector('input, textarea, select, button');
    if (seen(input)) { field.scrollIntoView({block: 'center'}); input.focus({preventScroll: true}); return; }
    for (const fold of document.querySelectorAll(`#tab-${where} .label-wrap:not(.open)`)) {
      const body = fold.parentElement;
      if (!field || body.contains(field)) fold.click();  // what is folded is made when it is opened
    }
    await new Promise(done => setTimeout(done, 80));
  }
}
document.addEventListener('click', event => {
  const goal = event.target.closest?.('[data-field-id]');
  if (goal) { event.preventDefault(); reach(goal.dataset.fieldId, goal.dataset.tab); }
  if (event.target.closest?.('#look')) {
    const next = document.body.classList.contains('dark') ? 'light' : 'dark';
    store(LOOK, next); look(next);
  }
  if (event.target.closest?.('#help')) document.querySelector('#help-text')?.showModal();
});

// --- what gradio leaves without a name, or puts inside another control ---

function mend() {
  for (const title of document.querySelectorAll('.thought-group > [role=button]')) {
    const button = title.querySelector('button');
    if (!button) continue;
    title.removeAttribute('role'); title.removeAttribute('tabindex');
    button.setAttribute('aria-label', `Show or hide: ${title.textContent.trim()}`);
    button.addEventListener('keydown', event => event.stopPropagation());  // or its press would count twice
  }
}

// --- when ---

let due = false;
function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; mend(); mark(); });
}
function begin() {
  look(asked ? null : stored(LOOK));
  new MutationObserver(changed).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ['aria-selected']});
  new MutationObserver(() => look()).observe(document.body, {attributes: true, attributeFilter: ['class']});
  const wanted = location.hash.slice(1).split('/')[0], since = Date.now();
  let right = 0;  // looks in a row that found the wanted tab open
  const ready = setInterval(() => {
    if (!tabOf()) return;
    look(asked ? null : stored(LOOK));
    const there = !wanted || tabOf() === wanted || !tabs().some(tab => tab.dataset.tabId === wanted);
    if (!there) go();
    right = there ? right + 1 : 0;
    if (right > 8 || Date.now() - since > 15000) { clearInterval(ready); settled = true; changed(); }
  }, 60);
  // Where a person presses something meanwhile, that says what is wanted: a tab, or a button that leads to one.
  document.addEventListener('click', event => { if (event.isTrusted && !settled) { clearInterval(ready); settled = true; changed(); } }, true);
}
document.body ? begin() : document.addEventListener('DOMContentLoaded', begin);
})();
