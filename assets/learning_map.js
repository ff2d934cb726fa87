// The browser side of lab/ui/learning_map.py: the questions of the run that the live view shows.
// `element` and `server` come from gradio.

const box = element.querySelector('.map');
const $ = selector => box.querySelector(selector);
const PAUSE = 4000;  // milliseconds between two questions to the server
const WORDS = {solved: 'Solved', learning: 'Learning', never: 'Never right', forgotten: 'Forgotten', unknown: 'Not judged'};
const SIGNS = {solved: '✓', never: '✕', forgotten: '↓', unknown: '?'};
let run = '', key = '', only = '', picked = '', tiles = [], asked = 0, waiting = false, watched = null;

function h(tag, look, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(look || {})) if (value !== false && value != null) made.setAttribute(name, value === true ? '' : value);
  made.append(...children.filter(child => child != null));
  return made;
}
const times = count => count === 1 ? 'once' : count === 2 ? 'twice' : `${count} times`;
const percent = rate => `${Math.round(100 * rate)} %`;

// --- the map ---

function show(reply) {
  key = reply.key;
  if (!reply.tiles) return;
  box.hidden = !reply.tiles.length;
  tiles = reply.tiles;
  $('.counts').textContent = Object.entries(reply.states).filter(([, count]) => count).map(([state, count]) => `${count} ${WORDS[state].toLowerCase()}`).join(' · ');
  $('.part').textContent = reply.part;
  $('.aimless').hidden = reply.goal;
  $('.left').hidden = !reply.left;
  $('.left').textContent = reply.left ? `${reply.left} more questions were asked less often and are not drawn.` : '';
  $('.states').replaceChildren(...Object.entries(reply.states).map(([state, count]) => {
    const button = h('button', {type: 'button', 'data-state': state, 'aria-pressed': String(only === state)}, sign(state, .6), WORDS[state], h('b', {}, String(count)));
    button.addEventListener('click', () => { only = only === state ? '' : state; mark(); draw(); });
    return button;
  }));
  draw();
}
function mark() { for (const button of box.querySelectorAll('.states button')) button.setAttribute('aria-pressed', String(button.dataset.state === only)); }
function sign(state, rate) {
  return h('span', {class: 'tile', 'data-state': state, 'aria-hidden': 'true', style: `--rate:${45 * (state === 'solved' ? 1 : state === 'learning' ? rate : 0)}%`}, SIGNS[state] || '%');
}
function draw() {
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const rows = new Map();
  for (const tile of tiles) if (!only || tile[3] === only) rows.set(tile[1], [...(rows.get(tile[1]) || []), tile]);
  $('.tiles').replaceChildren(...[...rows].map(([visits, there]) => h('div', {class: 'row'},
    h('h4', {}, `Asked ${times(visits)} · ${there.length}`), h('div', {}, ...there.map(tileOf)))));
  if (!rows.size) $('.tiles').replaceChildren(h('p', {}, 'No question is of this kind.'));
  const all = [...box.querySelectorAll('.tiles .tile')];
  const first = all.find(one => one.dataset.key === (focused || picked)) || all[0];
  if (first) first.tabIndex = 0;
  if (focused) first?.focus({preventScroll: true});
}
function tileOf([id, visits, rate, state, text]) {
  const told = rate == null ? 'not judged' : `${percent(rate)} right`;
  return h('button', {type: 'button', class: 'tile', 'data-state': state, 'data-key': id, tabindex: -1, 'aria-pressed': String(id === picked), style: `--rate:${45 * (rate || 0)}%`,
    title: `${WORDS[state]}, ${told}, asked ${times(visits)}: ${text}`, 'aria-label': `${text}: ${WORDS[state].toLowerCase()}, ${told}`}, SIGNS[state] || String(Math.round(100 * rate)));
}
$('.tiles').addEventListener('click', event => { const tile = event.target.closest('.tile'); if (tile) pick(tile.dataset.key); });
$('.tiles').addEventListener('keydown', event => {
  const all = [...box.querySelectorAll('.tiles .tile')], here = all.indexOf(event.target);
  if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
  const column = (from, way) => {  // the nearest tile of the next line
    const line = all.slice(way > 0 ? from : 0, way > 0 ? undefined : from + 1).map(one => one.getBoundingClientRect());
    const now = all[from].getBoundingClientRect(), tops = [...new Set(line.map(one => one.top))];
    const next = way > 0 ? tops.find(top => top > now.top) : tops.filter(top => top < now.top).at(-1);
    if (next === undefined) return from;
    return all.reduce((best, one, i) => { const at = one.getBoundingClientRect(); return at.top === next && (best < 0 || Math.abs(at.left - now.left) < Math.abs(all[best].getBoundingClientRect().left - now.left)) ? i : best; }, -1);
  };
  const to = {ArrowRight: () => here + 1, ArrowLeft: () => here - 1, ArrowDown: () => column(here, 1), ArrowUp: () => column(here, -1), Home: () => 0, End: () => all.length - 1}[event.key]?.();
  if (to === undefined) return;
  event.preventDefault();
  if (!all[to]) return;
  event.target.tabIndex = -1; all[to].tabIndex = 0; all[to].focus();
});

// --- one question ---

async function pick(id) {
  picked = id;
  for (const tile of box.querySelectorAll('.tiles .tile')) tile.setAttribute('aria-pressed', String(tile.dataset.key === id));
  let reply;
  try { reply = await server.question([run, id]); } catch (error) { return; }
  if (!reply || reply.problem || !reply.visits || picked !== id) return;
  const place = $('.question');
  place.hidden = false;
  place.replaceChildren(h('h4', {}, `${WORDS[reply.state]}: asked ${times(reply.visits.length)}`), h('pre', {tabindex: 0, role: 'group', 'aria-label': 'Question'}, reply.text),
    reply.reference == null ? null : h('p', {class: 'help'}, `Reference answer: ${reply.reference}`),
    h('ol', {class: 'visits'}, ...reply.visits.map(([step, group, right, judged, taught]) => {
      const button = h('button', {type: 'button'}, `Step ${step}`, h('span', {class: 'meter', 'aria-hidden': 'true'}, h('i', {style: `width:${judged ? 100 * right / judged : 0}%`})),
        h('small', {}, judged ? `${right} of ${judged} right${taught ? '' : ', taught nothing'}` : 'not judged'));
      button.addEventListener('click', () => window.dispatchEvent(new CustomEvent('grpo-lab-group', {detail: [step, group]})));
      return h('li', {}, button);
    })));
}

// --- what sets it going ---

async function ask() {
  if (waiting || !run) return;
  waiting = true;
  const wanted = run;
  try {
    const reply = await server.questions([run, key]);
    if (reply && !reply.problem && wanted === run) show(reply);
  } catch (error) { /* the live view says that the server is away */ }
  asked = Date.now();
  waiting = false;
  if (wanted !== run) ask();
}
let later = null;
function look() {
  const now = watched.dataset.run || '';
  if (now !== run) { run = now; key = ''; only = ''; picked = ''; tiles = []; box.hidden = true; $('.question').hidden = true; ask(); return; }
  if (document.visibilityState !== 'visible' || !(box.hidden || box.open) || later) return;
  later = setTimeout(() => { later = null; if (element.isConnected) ask(); }, Math.max(0, asked + PAUSE - Date.now()));
}
box.addEventListener('toggle', () => { if (box.open) ask(); });
window.labFollow(element, ['data-run', 'data-sampled'], live => { watched = live; look(); });
