// The browser side of lab/ui/microscope.py: one group of the run that the live view shows, and the way to the others.
// `element` and `server` come from gradio.

const box = element.querySelector('.scope');
const $ = selector => box.querySelector(selector);
const PAUSE = 1000;  // milliseconds between two questions that nobody has pressed for
const KINDS = {all: 'All', mixed: 'Taught something', dead: 'Taught nothing', right: 'All right', wrong: 'None right', errors: 'Errors', cut: 'Cut'};
const GROUP = 'grpo-lab-group';  // in the session: the group that is to be explained
let run = '', kind = 'all', at = null, follows = true, seen = false, shown = '', waiting = false, again = null, asked = 0, watched = null;

function h(tag, look, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(look || {})) {
    if (value === false || value == null) continue;
    made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const signed = value => value == null ? '–' : (value > 0 ? '+' : value < 0 ? '−' : '') + Math.abs(value).toFixed(2);
const short = value => value == null ? '–' : String(Number(value.toPrecision(3))).replace('-', '−');

// --- asking ---

async function ask(move = '', from = null) {  // from the group that is shown, or from another
  if (!run) return;
  if (waiting) { if (again === null || move || from) again = [move, from]; return; }  // what was pressed comes first
  waiting = true;
  const wanted = run;
  try {
    const reply = await server.group([run, kind, from || at, move]);
    if (reply && !reply.problem && wanted === run) show(reply);
  } catch (error) { /* the live view says that the server is away */ }
  asked = Date.now();
  waiting = false;
  if (again !== null) { const next = again; again = null; ask(...next); }
}
function follow(on) {
  follows = on;
  $('.follow').setAttribute('aria-pressed', String(on));
  if (on) ask('newest');
}
function go(move, from) { follow(false); ask(move, from); }

// --- drawing ---

function show(reply) {
  box.hidden = !reply.run || !reply.counts || !reply.counts.all;
  if (box.hidden) return;
  for (const label of box.querySelectorAll('.kinds label')) {
    const input = label.querySelector('input');
    set(label.querySelector('b'), String(reply.counts[input.value]));
    label.hidden = !reply.counts[input.value] && input.value !== kind && !['all', 'mixed', 'dead'].includes(input.value);
  }
  set($('.part'), reply.part);
  $('.part').hidden = !reply.part;
  at = reply.at;
  $('.none').hidden = !!at; $('.group').hidden = !at;
  set($('.none'), at ? '' : 'No group of this kind is recorded.');
  for (const button of box.querySelectorAll('[data-move]')) button.setAttribute('aria-disabled', String(!at || !reply.can[button.dataset.move]));
  $('.explain').setAttribute('aria-disabled', String(!at));
  box.dataset.at = at ? at.join('/') : '';
  set($('.at'), at ? `step ${at[0]}, group ${at[1] + 1} of ${reply.of_step} recorded · ${reply.place} of ${reply.counts[kind]}` : '');
  const key = JSON.stringify([reply.run, at, reply.answers, reply.prompt]);
  if (at && key !== shown) { shown = key; draw(reply); }
}

function draw(reply) {
  const largest = Math.max(1e-9, ...reply.answers.map(answer => Math.abs(answer.advantage || 0)));
  const sums = reply.answers.map(answer => Object.values(answer.parts).reduce(([low, high], part) => part < 0 ? [low + part, high] : [low, high + part], [0, 0]));
  const low = Math.min(0, ...sums.map(one => one[0])), high = Math.max(1e-9, ...sums.map(one => one[1]));
  const colour = new Map(reply.rewards.map((one, i) => [one.name, `var(--r${i % 6})`]));
  const labels = new Map(reply.rewards.map(one => [one.name, one.label]));
  const article = $('.group');
  article.setAttribute('aria-label', `Group ${at[1] + 1} of step ${at[0]}`);
  article.replaceChildren(
    h('header', {}, h('pre', {tabindex: 0, role: 'group', 'aria-label': 'Question'}, reply.prompt),
      reply.reference == null ? null : h('p', {}, `Reference answer: ${reply.reference}`),
      reply.said.text ? h('p', {class: `said ${reply.said.level}`}, reply.said.text) : null,
      reply.whole && reply.whole !== reply.prompt ? h('details', {}, h('summary', {}, 'The prompt as the model saw it'), h('pre', {tabindex: 0, role: 'group', 'aria-label': 'Prompt'}, reply.whole)) : null,
      h('ul', {class: 'legend'}, ...reply.rewards.map(one => h('li', {}, h('i', {style: `background:${colour.get(one.name)}`}), `${one.label} × ${short(one.weight)}`)),
        h('li', {class: 'differs'}, h('mark', {}, 'differs'), reply.marked ? 'from the best answer' : 'from the best answer; not looked for in all of these, they are long'))),
    ...reply.answers.map((answer, place) => card(answer, place, largest, low, high, colour, labels)));
}

function card(answer, place, largest, low, high, colour, labels) {
  const value = answer.advantage || 0, side = value > 0 ? 'up' : value < 0 ? 'down' : 'even', wide = high - low;
  const names = new Set([...Object.keys(answer.rewards), ...Object.keys(answer.errors)]);
  const chips = [...names].map(name => {
    const label = labels.get(name) || name, score = answer.rewards[name];
    if (answer.errors[name]) return h('li', {class: 'bad', title: answer.errors[name]}, `${label}: failed. ${answer.errors[name]}`);
    return h('li', {class: score ? '' : 'zero'}, label, h('b', {}, score == null ? 'not judged' : short(score)));
  });
  if (answer.cut) chips.push(h('li', {class: 'cut'}, `cut at ${answer.tokens} tokens`));
  let up = -low, down = -low;  // where the next part begins, to each side of 0
  const parts = Object.entries(answer.parts).filter(([, part]) => part).map(([name, part]) => {
    const begin = part > 0 ? up : down + part;
    if (part > 0) up += part; else down += part;
    return h('i', {style: `left:${100 * begin / wide}%;width:${100 * Math.abs(part) / wide}%;background:${colour.get(name) || 'var(--soft)'}`, title: `${labels.get(name) || name} ${short(part)}`});
  });
  return h('div', {class: `answer${answer.cut ? ' cut' : ''}`},
    h('div', {class: `adv ${side}`},
      h('b', {title: 'Advantage'}, h('span', {class: 'sr'}, 'Advantage '), signed(answer.advantage)),
      h('div', {class: 'scale', 'aria-hidden': 'true'}, h('i', {style: `width:${50 * Math.abs(value) / largest}%`})),
      h('small', {}, `${place || largest < 1e-6 ? '' : 'best · '}total ${short(answer.total)} · ${answer.tokens ?? '–'} tokens`)),
    h('div', {}, h('div', {class: 'stack', 'aria-hidden': 'true'}, ...parts, low < 0 ? h('i', {class: 'zero', style: `left:${100 * -low / wide}%`}) : null),
      h('ul', {class: 'chips'}, ...chips),
      h('pre', {tabindex: 0, role: 'group', 'aria-label': `Answer ${place + 1}`}, ...(answer.pieces.length ? answer.pieces.map(([text, differs]) => differs ? h('mark', {}, text) : text) : ['(empty)']))));
}

// --- what sets it going ---

$('.kinds').append(...Object.entries(KINDS).map(([value, text]) => {
  const input = h('input', {type: 'radio', name: 'microscope-kind', value});
  input.checked = value === kind;
  input.addEventListener('change', () => { kind = value; ask(follows ? 'newest' : ''); });
  return h('label', {}, input, h('span', {}, text, h('b', {}, '0')));
}));
for (const button of box.querySelectorAll('[data-move]')) button.addEventListener('click', () => { if (button.getAttribute('aria-disabled') !== 'true') go(button.dataset.move); });
$('.follow').addEventListener('click', () => follow(!follows));
$('.explain').addEventListener('click', () => {
  if (!at) return;
  sessionStorage.setItem(GROUP, JSON.stringify({run, at}));  // the other tab may not be there yet
  window.dispatchEvent(new CustomEvent('grpo-lab-explain'));
  document.querySelector('#tabs [role=tab][data-tab-id=how]')?.click();
});
box.addEventListener('keydown', event => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.target.matches('input, summary')) return;
  const inside = event.target.matches('pre');  // up and down move its text
  const move = {ArrowLeft: 'before', ArrowRight: 'next', ...(inside ? {} : {ArrowUp: 'step before', ArrowDown: 'step after', Home: 'first', End: 'newest'})}[event.key];
  if (!move) return;
  event.preventDefault();
  if (inside) $('.group').focus({preventScroll: true});  // this text is about to go
  go(move);
});
window.addEventListener('grpo-lab-group', event => {  // a question of the map leads here
  kind = 'all';
  $('.kinds input[value=all]').checked = true;
  go('', event.detail);
  $('.group').focus({preventScroll: true});
  box.scrollIntoView({block: 'start'});
});

function look() {  // at what the live view shows
  const now = watched.dataset.run || '', fresh = now !== run;
  if (fresh) { run = now; at = null; shown = ''; box.hidden = true; }
  if (!run || document.visibilityState !== 'visible') return;
  if (fresh) { follow(true); return; }
  if (!seen && !box.hidden) return;
  if (Date.now() - asked >= PAUSE) ask(follows ? 'newest' : '');
  else setTimeout(() => { if (Date.now() - asked >= PAUSE && element.isConnected) ask(follows ? 'newest' : ''); }, PAUSE);
}
new IntersectionObserver(entries => { seen = entries.some(one => one.isIntersecting); if (seen && watched && follows) look(); }, {rootMargin: '120px'}).observe(box);
window.labFollow(element, ['data-run', 'data-sampled'], live => { watched = live; look(); });
