// The browser side of lab/ui/lesson.py: draws a group in steps, and asks for its figures anew whenever something is moved.
// `element` and `server` come from gradio. No figure is counted here.

const box = element.querySelector('.lesson');
const $ = selector => box.querySelector(selector);
const STORED = 'grpo-lab-run';
const SCALES = {group: 'the group', batch: 'the whole batch', none: 'nothing (Dr. GRPO)'};
const TOGETHER = {sum_then_normalize: 'summed, then compared', normalize_then_sum: 'each brought to one scale first (GDPO)'};
let shown = null;    // the newest reply
let drawn = '';      // which group the inputs stand for
let loss = '';       // whose push the table tells; '' is the run's own
let moves = {};      // what a person moved
let wanted = {run: sessionStorage.getItem(STORED) || '', at: null, move: ''};
let waiting = false, again = false, stays = false;  // stays: a person chose this group

function h(tag, look, ...children) {
  const svg = ['svg', 'line', 'path', 'rect', 'circle', 'title'].includes(tag);
  const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(look || {})) {
    if (value === false || value == null) continue;
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value); else made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}
const able = (button, can) => button.setAttribute('aria-disabled', String(!can));  // it keeps the focus
const set = (node, text) => { if (node.textContent !== text) node.textContent = text; };
function num(value, digits = 3) {
  if (value == null) return '–';
  const size = Math.abs(value);
  const text = size && (size < 0.001 || size >= 1e5) ? value.toExponential(1).replace('e+', 'e') : String(Number(value.toFixed(digits)));
  return text.replaceAll('-', '−');
}
const signed = value => value == null ? '–' : (value > 0 ? '+' : '') + num(value);
const side = value => value > 0 ? 'up' : value < 0 ? 'down' : 'even';
const title = name => shown.rewards.find(one => one.name === name)?.label || name;

// --- asking ---

async function ask() {
  if (waiting) { again = true; return; }
  waiting = true;
  do {
    again = false;
    let reply;
    try { reply = await server.explain_group({...wanted, ...moves}); } catch (error) { /* said below */ }
    if (again) continue;
    if (!reply || reply.problem) { set($('.source'), reply?.problem || 'The lab does not answer.'); $('.source').classList.add('bad'); continue; }
    shown = reply;
    wanted = {run: reply.run, at: reply.run ? reply.at : null, move: ''};
    show();
  } while (again);
  waiting = false;
}
function move(change) { moves = {...moves, ...change}; ask(); }
function turn(where) { moves = {}; stays = stays || 'move' in where; wanted = {...wanted, ...where}; ask(); }

// --- drawing ---

const order = () => shown.answers.map((_, i) => i).sort((a, b) => (shown.answers[b].recorded ?? 0) - (shown.answers[a].recorded ?? 0) || a - b);

function show() {
  const key = JSON.stringify([shown.run, shown.at, shown.how]);
  if (key !== drawn) { drawn = key; build(); }
  box.setAttribute('aria-busy', 'false');
  $('.source').classList.remove('bad');
  set($('.source'), shown.run ? `${shown.name}, step ${shown.at[0]}: group ${shown.at[1] + 1} of the ${shown.recorded} that were recorded of ${shown.made}`
    : 'No run has recorded answers yet: this group comes with the lab. Its tokens are words.');
  for (const button of box.querySelectorAll('[data-move]')) able(button, shown.run && (button.dataset.move === 'before' ? shown.before : shown.after));
  able($('.reset'), Object.keys(moves).length || loss);
  const f = shown.figures, how = {...shown.how, ...moves}, own = loss || how.loss;
  steps(f, how, own);
  rows(f, own);
  pictures(f, own);
  const beta = moves.beta ?? shown.how.beta;
  set($('.pull'), `Now: ${num(f.pull)} on a token with an advantage of 0${beta ? '' : ', since beta is 0'}.`);
  set($('.error'), f.error == null ? '' : `Here the mean of ${f.totals.filter(one => one != null).length} answers is ${num(f.baseline, 2)} ± ${num(f.error, 2)}: the more answers, the surer.`);
}

function steps(f, how, own) {
  const say = (name, key, text) => { const at = $(`[data-step=${name}]`); set(at.querySelector('.key'), key); set(at.querySelector('.say'), text); };
  const up = f.advantages.filter(one => one > 1e-6).length, down = f.advantages.filter(one => one < -1e-6).length;
  const still = f.advantages.length - up - down;
  say('question', shown.question, shown.reference == null ? '' : `Reference answer: ${shown.reference}`);
  say('answers', `${shown.answers.length} answers`, shown.run ? `drawn at temperature ${num(how.temperature)}: they must differ, or there is nothing to compare` : 'they must differ, or there is nothing to compare');
  say('rewards', `mean ${num(f.baseline, 2)}`, how.aggregation === 'normalize_then_sum' ? 'of sums of rewards, each brought to one scale in its group' : 'each answer gets the sum of score × weight; their mean is the baseline');
  say('advantages', `${up} up, ${down} down${still ? `, ${still} at 0` : ''}`, (how.scale === 'none' && how.aggregation !== 'normalize_then_sum') ? 'reward − mean' : `(reward − mean) / ${num(f.divisor, 2)}`);
  const ratio = moves.ratio ?? 1, held = f.losses[own];
  const cut = shown.answers.some((_, i) => f.counted[i] && Math.abs(f.advantages[i]) > 1e-6 && (f.advantages[i] > 0 ? held.now_up : held.now_down) === 0);
  say('push', own, cut ? `clipped: at ratio ${num(ratio, 2)} some answers push no more` : 'tokens of answers above the mean become likelier, those below less likely');
  const dead = $('.dead');
  dead.hidden = !f.dead;
  const known = f.totals.filter(one => one != null);
  set(dead, !f.dead ? '' : known.length ? `This group teaches nothing: all ${known.length} scored ${num(known[0], 2)}.` : 'This group teaches nothing: no answer could be judged.');
}

function build() {
  const slide = (label, look, now, changed, text) => {
    const out = h('output', {}, text(now));
    const input = h('input', {type: 'range', ...look, 'aria-label': label, 'aria-valuetext': text(now), oninput: () => {
      const value = changed(Number(input.value)); set(out, text(value)); input.setAttribute('aria-valuetext', text(value)); }});
    input.value = look.value;
    return h('label', {class: 'slide'}, h('span', {}, label), input, out);
  };
  const radios = (place, name, words, now) => $(`${place} > div`).replaceChildren(...Object.entries(words).map(([value, text]) => {
    const input = h('input', {type: 'radio', name: `lesson-${name}`, value, onchange: () => move({[name]: value})});
    input.checked = value === now;
    return h('label', {}, input, text);
  }));
  $('.weights > div').replaceChildren(...shown.rewards.map(one => slide(one.label,
    {min: 0, max: Math.max(2, 2 * one.weight), step: Math.max(2, 2 * one.weight) / 40, value: one.weight}, one.weight,
    value => { move({weights: {...moves.weights, [one.name]: value}}); return value; }, value => num(value, 2))));
  radios('.scale', 'scale', SCALES, moves.scale || shown.how.scale);
  radios('.together', 'aggregation', TOGETHER, moves.aggregation || shown.how.aggregation);
  const power = {min: -1.3, max: 1.3, step: 0.05, value: 0};
  $('.policy > div').replaceChildren(slide('A token became likelier', power, 1, x => { const ratio = 2 ** x; move({ratio}); return ratio; }, value => `× ${num(value, 2)}`),
    h('small', {}, shown.how.iterations > 1 ? `This run uses each answer ${shown.how.iterations} times: r leaves 1 from the second on.` : 'With one update per rollout, as here, r is 1 and nothing is clipped.'));
  $('.kl').replaceChildren(
    slide('KL weight (beta)', {min: 0, max: Math.max(1, 2 * shown.how.beta), step: 0.01, value: shown.how.beta}, shown.how.beta, beta => { move({beta}); return beta; }, value => num(value, 2)),
    slide('Likelier than in the base', {...power, min: -3, max: 3}, 1, x => { const likelier = 2 ** x; move({likelier}); return likelier; }, value => `× ${num(value, 2)}`));
  table();
  cards();
}

function table() {
  const head = h('thead', {}, h('tr', {}, h('th', {scope: 'col'}, 'Answer'),
    ...shown.rewards.map(one => h('th', {scope: 'col', class: 'number'}, one.label, h('small', {}, one.kind || ''))),
    h('th', {scope: 'col', class: 'number'}, 'Reward'), h('th', {scope: 'col'}, 'Advantage'), h('th', {scope: 'col'}, 'Push on a token')));
  const body = h('tbody', {}, ...order().map((i, row) => {
    const one = shown.answers[i];
    return h('tr', {'data-answer': i}, h('th', {scope: 'row'}, h('pre', {tabindex: 0, role: 'group', 'aria-label': `Answer ${row + 1}`}, one.text || '(empty)'),
      h('small', {}, `${one.tokens ?? '–'} tokens${one.cut ? ', cut' : ''}${one.failed.length ? `, failed: ${one.failed.map(title).join(', ')}` : ''}`)),
    ...shown.rewards.map((reward, at) => {
      const input = h('input', {type: 'number', step: 'any', min: -1e6, max: 1e6, 'aria-label': `${reward.label}, answer ${row + 1}`, placeholder: 'none', oninput: () => {
        const value = input.value === '' ? null : Number(input.value);
        const scores = (moves.scores || shown.answers.map(answer => [...answer.scores])).map(line => [...line]);
        scores[i][at] = value;
        input.classList.toggle('moved', value !== one.scores[at]);
        if (input.validity.valid) move({scores});
      }});
      input.value = one.scores[at] == null ? '' : String(Number(one.scores[at].toFixed(4)));
      input.addEventListener('keydown', event => {  // by a quarter of its highest, from wherever it stands
        const way = {ArrowUp: 1, ArrowDown: -1}[event.key];
        if (!way) return;
        event.preventDefault();
        input.value = String(Number(((Number(input.value) || 0) + way * reward.best / 4).toFixed(4)));
        input.dispatchEvent(new Event('input'));
      });
      return h('td', {class: 'number', 'data-label': reward.label}, input);
    }),
    h('td', {class: 'number total', 'data-label': 'Reward'}, h('span', {})), h('td', {class: 'gain', 'data-label': 'Advantage'}, meter()), h('td', {class: 'push', 'data-label': 'Push on a token'}, meter()));
  }));
  $('table').replaceChildren(head, body);
}
const meter = () => h('div', {}, h('b', {}), h('small', {}), h('div', {class: 'bar', 'aria-hidden': 'true'}, h('i', {})));

function rows(f, own) {
  const push = f.losses[own].push, whole = f.losses[own].whole;
  const widest = values => Math.max(1e-12, ...values.map(value => Math.abs(value ?? 0)));
  const gains = widest(f.advantages), pushes = widest(push);
  for (const row of box.querySelectorAll('tr[data-answer]')) {
    const i = Number(row.dataset.answer);
    set(row.querySelector('.total span'), num(f.totals[i]));
    const fill = (place, value, text, more, largest) => {
      const at = row.querySelector(place);
      at.firstChild.className = side(value);
      set(at.querySelector('b'), text); set(at.querySelector('small'), more);
      at.querySelector('i').style.width = `${50 * Math.abs(value ?? 0) / largest}%`;
    };
    fill('.gain', f.advantages[i], f.totals[i] == null ? 'left out' : signed(f.advantages[i]), '', gains);
    row.querySelector('.gain').dataset.value = f.advantages[i];
    fill('.push', push[i], f.counted[i] ? signed(push[i]) : 'cut: no loss', ` ${signed(whole[i])} in all`, pushes);
    row.querySelector('.push').dataset.value = push[i];
  }
}

function cards() {
  $('.losses').replaceChildren(...shown.losses.map(one => h('article', {class: `loss${one.name === shown.how.loss ? ' own' : ''}`, 'data-loss': one.name},
    h('header', {}, h('h4', {}, one.name), h('button', {type: 'button', 'aria-label': `Show the push of ${one.name} in the table`, onclick: () => { loss = one.name; show(); }}, 'In the table')),
    one.name === shown.how.loss ? h('small', {}, shown.run ? "This run's" : "The first recipe's") : null,
    h('p', {class: 'formula'}, one.formula), h('p', {}, one.weighs), h('div', {class: 'drawn'}, h('div', {class: 'bars'}), h('div', {class: 'curve'})),
    h('p', {class: 'paper'}, h('a', {href: `https://arxiv.org/abs/${one.arxiv}`, target: '_blank', rel: 'noreferrer'}, `${one.paper}, ${one.arxiv}`)))));
}

function pictures(f, own) {
  for (const card of box.querySelectorAll('.loss')) {
    const told = f.losses[card.dataset.loss];
    card.querySelector('button').setAttribute('aria-pressed', String(card.dataset.loss === own));
    card.querySelector('.bars').replaceChildren(bars(order().map(i => told.push[i])));
    card.querySelector('.curve').replaceChildren(curve(told));
  }
}
function bars(values) {
  const most = Math.max(1e-12, ...values.map(Math.abs)), width = 100 / values.length;
  return h('svg', {viewBox: '0 0 100 76', preserveAspectRatio: 'none', role: 'img', 'aria-label': `Push on a token of each answer: ${values.map(signed).join(', ')}`},
    h('line', {class: 'axis', x1: 0, x2: 100, y1: 38, y2: 38}),
    ...values.map((value, i) => h('rect', {class: value > 0 ? 'rise' : 'fall', x: i * width + width * .15, width: width * .7,
      y: value > 0 ? 38 - 36 * value / most : 38, height: 36 * Math.abs(value) / most})));
}
function curve(told) {
  const x = ratio => 100 * (ratio - shown.ratios[0]) / (shown.ratios.at(-1) - shown.ratios[0]), y = value => 38 - 17 * Math.max(-2.1, Math.min(2.1, value));
  const path = (values, way) => values.map((value, i) => `${i ? 'L' : 'M'}${x(shown.ratios[i]).toFixed(1)} ${y(way * value).toFixed(1)}`).join('');
  const ratio = moves.ratio ?? 1, at = Math.max(0, Math.min(100, x(ratio)));
  const dot = (value, way) => h('circle', {class: way > 0 ? 'rise' : 'fall', cx: at, cy: y(way * value), r: 3.5});
  return h('svg', {viewBox: '-30 0 160 76', role: 'img', 'aria-label': `At ratio ${num(ratio, 2)}: ${num(told.now_up, 2)} of a push up is left, ${num(told.now_down, 2)} of a push down`},
    h('line', {class: 'axis', x1: 0, x2: 100, y1: 38, y2: 38}), h('line', {class: 'axis', x1: x(1), x2: x(1), y1: 2, y2: 74, 'stroke-dasharray': '2 3'}),
    h('path', {class: 'line', d: path(told.gate_up, 1)}), h('path', {class: 'line fall', d: path(told.gate_down, -1)}), dot(told.now_up, 1), dot(told.now_down, -1));
}

// --- what sets it going ---

for (const button of box.querySelectorAll('[data-move]')) button.addEventListener('click', () => { if (button.getAttribute('aria-disabled') !== 'true') turn({move: button.dataset.move}); });
$('.reset').addEventListener('click', () => { drawn = ''; loss = ''; turn({}); });
function handed() {  // a group that the microscope wants explained
  const group = JSON.parse(sessionStorage.getItem('grpo-lab-group') || 'null');
  sessionStorage.removeItem('grpo-lab-group');
  if (group) turn({...group, move: ''});
}
window.addEventListener('grpo-lab-explain', handed);
window.addEventListener('grpo-lab-shown', () => { stays = false; if (shown && !Object.keys(moves).length) newest(); });
function newest() { wanted = {run: sessionStorage.getItem(STORED) || '', at: null, move: ''}; ask(); }
new IntersectionObserver(seen => {  // opened: what has been recorded since is taken, unless a person chose or moved something
  if (seen.some(one => one.isIntersecting) && !stays && !Object.keys(moves).length) newest();
}).observe(box);
handed();
