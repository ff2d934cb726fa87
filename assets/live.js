// The browser side of lab/ui/live.py: asks for what is new once a second and draws it.
// Runs once, when the Train tab is first opened. `element`, `server` and `trigger` come from gradio.

const root = document.getElementById('live') || element;
const live = element.querySelector('.live');
const $ = selector => live.querySelector(selector);
const OFFSETS = [1, 2, 4, 8, 10];  // seconds between two tries while the server is away
const ENOUGH = 4500;               // points in the page before the run is loaded anew, thinned
const STORED = 'grpo-lab-run';
const WORDS = {none: 'No runs yet', starting: 'Starting', running: 'Training', stopping: 'Stopping after this step',
  stopped: 'Stopped', failed: 'Failed', finished: 'Finished', damaged: 'Damaged', error: 'Something is wrong'};
const ACTIVE = ['starting', 'running', 'stopping'];
const DASHES = ['solid', '8px,2px', '2px,2px', '9px,2px,2px,2px', '14px,3px', '5px,2px,1px,2px,1px,2px'];  // short gaps: curves jump
const LIGHT = ['#0072b2', '#c2500a', '#007a5a', '#a3407f', '#8a6a00', '#4b5a9e'];  // told apart by most eyes,
const DARK = ['#6cbcf0', '#f0a35e', '#3dcfa3', '#e59ccb', '#e8d44d', '#a9b5f2'];    // and by their dashes

let wanted = sessionStorage.getItem(STORED) || '';  // '' follows the active or newest run
let run = '', epoch = -1, cursor = 0, names = 0;    // what is shown, and up to where
let x = [], y = [], charts = [], detail = {}, state = {}, stamp = 0;
let other = '';                                     // an active run that is not the one shown
let told = '', busy = false, again = false, fails = 0, due = 0;
let answersStep = null, answersRun = '', follows = true, answersSeen = false, fetching = false;

// --- small helpers ---

function h(tag, look, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(look || {})) {
    if (value === false || value == null) continue;
    if (key === 'class') made.className = value; else made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.filter(child => child != null));
  return made;
}
const set = (selector, text) => { const at = $(selector); if (at.textContent !== text) at.textContent = text; };
const fixed = (value, digits) => value == null ? '–' : value.toFixed(digits).replace('-', '−');
const percent = value => value == null ? '–' : `${Math.round(value * 100)} %`;
const signed = value => value == null ? '–' : (value > 0 ? '+' : value < 0 ? '−' : '') + Math.abs(value).toFixed(2);
function short(value) {
  if (value == null) return '–';
  const size = Math.abs(value);
  const text = size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(1).replace('+', '')
    : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size < 0.1 && size > 0 ? 4 : 2);
  return text.replaceAll('-', '−');
}
function time(seconds) {
  if (seconds == null) return '–';
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds), m = Math.floor(s / 60), hours = Math.floor(m / 60);
  if (s < 60) return `${s} s`;
  return hours ? `${hours} h ${m % 60} min` : `${m} min ${s % 60} s`;
}
const dark = () => document.body.classList.contains('dark');
const css = name => getComputedStyle(live).getPropertyValue(name).trim();

// --- the curves ---

const plotly = new Promise((resolve, reject) => {
  if (window.Plotly) return resolve();
  document.head.append(Object.assign(document.createElement('script'),
    {src: live.dataset.plotly, onload: resolve, onerror: reject}));
});
plotly.then(drawAll, () => set('#live-charts', 'The curves cannot be drawn: plotly.js did not load.'));

function makeCharts(specs) {
  const box = $('#live-charts');
  for (const chart of charts) { watcher.unobserve(chart.box); if (window.Plotly) Plotly.purge(chart.plot); }
  const small = specs.filter(spec => !spec.key.startsWith('reward'));
  const half = small.length % 3 === 2 ? small.slice(-2) : [];  // two in the last row share it
  charts = specs.map(spec => {
    const plot = h('div', {class: 'plot', role: 'group', 'aria-label': `${spec.title}: curve`});
    const now = h('span', {class: 'now'});
    const box = h('figure', {class: 'chart' + (spec.key.startsWith('reward') ? ' wide' : half.includes(spec) ? ' half' : ''), id: `live-chart-${spec.key}`},
      h('figcaption', {}, h('b', {}, spec.title), now), h('p', {class: 'why'}, spec.help), plot);
    return {spec, box, plot, now, drawn: 0, stamp: -1, seen: false};
  });
  box.replaceChildren(...charts.map(chart => chart.box));
  for (const chart of charts) watcher.observe(chart.box);
}

const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) {
    if (entry.target.id === 'live-groups') { answersSeen = entry.isIntersecting; fetchAnswers(); continue; }
    const chart = charts.find(one => one.box === entry.target);
    if (chart) { chart.seen = entry.isIntersecting; draw(chart); }
  }
}, {rootMargin: '120px'});
watcher.observe($('#live-groups'));

function traces({spec}) {
  const colours = dark() ? DARK : LIGHT, from = at => ({x: x.slice(), y: y[at].slice()});
  const few = x.length < 2, made = [];
  if (spec.band) {
    const edge = {type: 'scatter', mode: 'lines', line: {width: 0}, hoverinfo: 'skip', showlegend: false};
    made.push({...edge, ...from(spec.band[0]), name: 'low'},
              {...edge, ...from(spec.band[1]), name: 'high', fill: 'tonexty', fillcolor: colours[0] + '2e'});
  }
  const count = spec.lines.length;  // the last reward, usually the one that matters, gets the solid line
  const dash = i => DASHES[(spec.key === 'rewards' ? count - 1 - i : i) % DASHES.length];
  spec.lines.forEach((line, i) => made.push({type: 'scatter', mode: few ? 'markers' : 'lines', name: line.name, connectgaps: true,
    ...from(line.at), line: {color: colours[i % colours.length], width: 2, dash: dash(i)},
    marker: {color: colours[i % colours.length], size: 7}}));
  return made;
}

function layout({spec}) {
  const several = spec.lines.length > 1, grid = css('--border-color-primary'), soft = css('--body-text-color-subdued');
  const axis = {gridcolor: grid, linecolor: grid, zeroline: false, tickfont: {color: soft, size: 12}, automargin: false};
  return {uirevision: run, hovermode: 'x unified', dragmode: 'zoom', showlegend: several,
    margin: {l: 50, r: 14, t: several ? 34 : 10, b: 30}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {family: getComputedStyle(live).fontFamily, size: 12, color: css('--body-text-color')},
    hoverlabel: {bgcolor: css('--background-fill-primary'), bordercolor: grid, font: {color: css('--body-text-color')}},
    xaxis: {...axis, showgrid: false, hoverformat: 'd', unifiedhovertitle: {text: 'Step %{x}'}, ...(x.length < 5 ? {dtick: 1} : {})},
    yaxis: {...axis, hoverformat: spec.percent ? '.0%' : '.4~g', tickformat: spec.percent ? '.0%' : spec.key === 'lr' ? '.1~e' : '~g',
      nticks: 6, ...(spec.percent ? {range: [-0.02, 1.04]} : {}), ...(['length', 'rewards'].includes(spec.key) ? {rangemode: 'tozero'} : {})},
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: {size: 12}}};
}

const CONFIG = {responsive: true, displaylogo: false, doubleClick: 'reset+autosize',
  modeBarButtonsToRemove: ['sendChartToCloud', 'lasso2d', 'select2d', 'autoScale2d', 'zoomIn2d', 'zoomOut2d']};

function draw(chart) {
  const last = chart.spec.lines.map(line => newest(line.at));
  const write = chart.spec.percent ? percent : short;
  const now = x.length ? chart.spec.lines.length === 1 ? write(last[0]) : '' : '';
  if (chart.now.textContent !== now) chart.now.textContent = now;
  if (!chart.seen || !window.Plotly || !live.offsetParent) return;
  if (chart.stamp !== stamp || chart.drawn < 5) {
    const made = traces(chart);  // what is hidden stays hidden, whoever hid it
    made.forEach((trace, i) => { const before = chart.plot.data?.[i]?.visible; if (before != null) trace.visible = before; });
    Plotly.react(chart.plot, made, layout(chart), CONFIG);
  } else if (x.length > chart.drawn) {
    const order = [...(chart.spec.band || []), ...chart.spec.lines.map(line => line.at)];
    Plotly.extendTraces(chart.plot, {x: order.map(() => x.slice(chart.drawn)), y: order.map(at => y[at].slice(chart.drawn))},
      order.map((_, i) => i));
  }
  chart.drawn = x.length; chart.stamp = stamp;
}
function drawAll() { charts.forEach(draw); }
const newest = at => { for (let i = x.length - 1; i >= 0; i--) if (y[at][i] != null) return y[at][i]; return null; };

function lineOf(key, place = 0) {
  const line = charts.find(chart => chart.spec.key === key)?.spec.lines[place];
  return line === undefined ? null : line.at;
}

// --- words and figures ---

function show() {
  const status = state.status || 'none', share = state.steps ? Math.min(1, (state.step || 0) / state.steps) : 0;
  live.dataset.status = root.dataset.status = status;
  root.dataset.step = state.step ?? 0; root.dataset.run = run;
  set('.word', status === 'starting' && state.phase ? sentence(state.phase) : WORDS[status] || status);
  set('.about', run ? [detail.model, detail.engine, detail.stack && `on the ${detail.stack} stack, because ${detail.why}`].filter(Boolean).join(' · ') : '');
  const bar = $('.bar'), value = Math.round(share * 100);
  bar.setAttribute('aria-valuenow', value);
  bar.setAttribute('aria-valuetext', run ? `step ${state.step} of ${state.steps}` : 'no run');
  bar.firstElementChild.style.width = `${share * 100}%`;
  const going = ACTIVE.includes(status);
  set('.under .steps', run && status !== 'damaged' ? `Step ${state.step} of ${state.steps} · ${value} %` : '');
  set('.under .left', going && state.left != null ? `About ${time(state.left)} left` : '');
  showFigures(going);
  showMessages();
  drawAll();
  const key = `${run} ${status}`;
  if (key !== told) { told = key; trigger('run_state', {run, status}); }
}
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1);

function showFigures(going) {
  const box = $('#live-figures'), reward = lineOf('reward');
  box.hidden = $('#live-charts').hidden = !x.length;
  if (!x.length) return set('#live-summary', run ? `${$('.word').textContent}. No step yet.` : '');
  const now = reward == null ? null : newest(reward), first = detail.reward_first;
  const length = lineOf('length'), cut = lineOf('cut'), right = lineOf('dead', 0), wrong = lineOf('dead', 1);
  const dead = right == null || wrong == null ? null : (newest(right) ?? 0) + (newest(wrong) ?? 0);
  const figures = [
    ['Reward', fixed(now, 2), first == null ? '' : `from ${fixed(first, 2)}`],
    ['Per step', time(state.pace), ''],
    [going ? 'So far' : 'Took', time(state.seconds), ''],
    ['Answer length', length == null ? '–' : short(newest(length)), 'tokens'],
    ['Cut answers', cut == null ? '–' : percent(newest(cut)), ''],
    ['Dead groups', percent(dead), '']];
  const gpu = lineOf('gpu');
  if (gpu != null) figures.push(['GPU memory', short(newest(gpu)), 'GB']);
  if (box.children.length !== figures.length) {
    box.replaceChildren(...figures.map(([name]) => h('div', {}, h('dt', {}, name), h('dd', {}, h('span'), h('small')))));
  }
  figures.forEach(([name, value, small], i) => {
    const [dt, dd] = box.children[i].children;
    for (const [at, text] of [[dt, name], [dd.firstChild, value], [dd.lastChild, small]]) {
      if (at.textContent !== text) at.textContent = text;
    }
  });
  set('#live-summary', `${$('.word').textContent}. Step ${state.step} of ${state.steps}. `
    + figures.map(([name, value, small]) => `${name} ${value} ${small}`.trim()).join(', ') + '.');
}

let messageKey = '';
function showMessages() {
  const problem = detail.problem, notices = detail.notices || [], errors = Object.entries(detail.errors || {});
  const key = JSON.stringify([fails > 0, run, other, problem, notices, errors, state.status]);
  if (key === messageKey) return;
  messageKey = key;
  const made = [];
  if (fails) made.push(h('div', {class: 'warning', id: 'live-offline', role: 'status'}, h('p', {}, 'The lab does not answer.'),
    h('p', {}, 'A run in progress goes on without this page. Trying again.')));
  if (!run && !fails) made.push(h('div', {class: 'info', id: 'live-empty'}, h('p', {}, 'Nothing has been trained yet.'),
    h('p', {}, 'Pick a recipe on the Start tab and press Start. The curves will grow here.')));
  if (other) {
    const button = h('button', {type: 'button'}, 'Show it');
    button.addEventListener('click', () => choose(''));
    made.push(h('div', {class: 'info tools', style: 'align-items:center'}, h('span', {}, 'Another run is training.'), button));
  }
  if (problem) made.push(h('div', {class: 'error', id: 'live-problem', role: 'alert'},
    ...[problem.what, problem.why, problem.next].filter(Boolean).map(text => h('p', {}, text))));
  if (errors.length) made.push(h('div', {class: 'warning', id: 'live-reward-errors'}, h('p', {}, 'Some rewards failed.'),
    h('p', {}, errors.map(([name, count]) => `${name}: ${count} ${count === 1 ? 'answer' : 'answers'}`).join(', ')
      + '. They got no score from it; the answers below show the error.')));
  if (notices.length) {
    const newest = notices[notices.length - 1];
    made.push(h('details', {class: `notices ${newest.level}`, id: 'live-notices'},
      h('summary', {}, newest.text + (notices.length > 1 ? ` (${notices.length} notices)` : '')),
      h('ul', {}, ...notices.map(notice => h('li', {}, notice.text)))));
  }
  $('#live-messages').replaceChildren(...made);
}

// --- asking the server ---

async function ask(name, given) {
  const reply = await server[name](given);
  if (reply === undefined) throw new Error('no answer');  // gradio's client swallows the error
  return reply;
}

async function once() {
  const before = wanted, reply = await ask('tick', [wanted, run, epoch, cursor, names]);
  if (before !== wanted) return true;
  const arrived = reply.active || '';
  if (wanted && arrived && arrived !== other && run && known) return choose('', true), true;  // a new run has begun
  known = true; other = arrived;
  if (reply.reload || (reply.run && x.length > ENOUGH)) return open(before);
  if (!reply.run) { state = reply; run = ''; return false; }
  const changed = reply.status !== state.status || reply.notices !== state.notices || reply.errors !== state.errors;
  state = reply;
  for (const [step, ...values] of reply.rows) { x.push(step); values.forEach((value, i) => y[i].push(value)); }
  cursor = reply.cursor;
  if (changed) detail = await ask('detail', [run]);
  return !!reply.more;
}
let known = false;

async function open(before) {
  const reply = await ask('history', [wanted]);
  if (before !== wanted) return true;
  const fresh = reply.run !== run;
  state = reply; run = reply.run || '';
  if (!run) { wanted = ''; sessionStorage.removeItem(STORED); x = []; y = []; names = 0; epoch = -1; cursor = 0; detail = {}; makeCharts([]); answers(null); list(); return false; }
  if (wanted && wanted !== run) { wanted = ''; sessionStorage.removeItem(STORED); }  // it was deleted
  ({x, y, epoch, cursor, detail} = reply);
  names = y.length; stamp++;
  if (fresh || JSON.stringify(reply.charts) !== JSON.stringify(charts.map(chart => chart.spec))) makeCharts(reply.charts);
  if (fresh) { answers(null); follow(true); list(); }
  return false;
}

async function poll() {
  if (document.visibilityState !== 'visible' || !live.offsetParent) return;
  if (busy) { again = true; return; }
  busy = true;
  try {
    for (let i = 0; i < 30 && (await once() || again); i++) again = false;
    fails = 0;
  } catch (error) { fails++; }
  busy = false;
  root.toggleAttribute('data-offline', fails > 0);
  live.toggleAttribute('data-offline', fails > 0);
  try { show(); fetchAnswers(); } catch (error) { console.error(error); }
  due = Date.now() + (fails ? OFFSETS[Math.min(fails, OFFSETS.length) - 1] * 1000
    : ACTIVE.includes(state.status) ? 950 : 1950);
}

// --- which run ---

async function list() {
  const select = $('#live-run');
  try {
    const found = await ask('listing', []);
    const day = new Intl.DateTimeFormat(undefined, {month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit'});
    select.replaceChildren(h('option', {value: ''}, found.length ? 'Newest run' : 'No runs yet'), ...found.map(one =>
      h('option', {value: one.run}, [one.name || one.run, one.name && one.created && day.format(one.created * 1000)].filter(Boolean).join(' · '))));
    select.value = wanted;
  } catch (error) { /* the next poll says that the server is away */ }
}
function choose(id, quiet) {
  wanted = id; known = false; other = '';
  if (id) sessionStorage.setItem(STORED, id); else sessionStorage.removeItem(STORED);
  $('#live-run').value = id;
  if (!quiet) poll();
}
$('#live-run').addEventListener('change', event => choose(event.target.value));
$('#live-run').addEventListener('focus', list);
window.addEventListener('grpo-lab-show', event => { choose(event.detail || ''); list(); });

// --- the newest answers ---

function follow(on) {
  follows = on;
  $('.follow').setAttribute('aria-pressed', on);
  if (on) fetchAnswers();
}
async function fetchAnswers(step = null) {
  const box = $('#live-groups');
  if (state.sampled == null || !run) { if (!box.hidden) answers(null); return; }
  box.hidden = false;
  const stale = answersRun !== run || (follows && answersStep !== state.sampled);
  if (fetching || !answersSeen || !live.offsetParent || (step === null && !stale)) return;
  fetching = true;
  try { answers(await ask('groups', [run, step])); } catch (error) { /* see list() */ }
  fetching = false;
}
let neighbours = {};
$('.before').addEventListener('click', () => { follow(false); fetchAnswers(neighbours.before); });
$('.after').addEventListener('click', () => { follow(false); fetchAnswers(neighbours.after); });
$('.follow').addEventListener('click', () => follow(!follows));

function answers(reply) {
  const box = $('#live-groups');
  if (!reply || reply.step == null) { box.hidden = true; answersStep = null; answersRun = ''; $('.groups .list').replaceChildren(); return; }
  answersStep = reply.step; answersRun = reply.run; neighbours = reply;
  box.dataset.step = reply.step;
  set('.groups .at', `at step ${reply.step}`);
  $('.before').disabled = reply.before == null; $('.after').disabled = reply.after == null;
  $('.groups .list').replaceChildren(...reply.groups.map((group, i) => groupCard(group, i, reply.labels)));
}

function groupCard(group, number, labels) {
  const largest = Math.max(1e-9, ...group.answers.map(answer => Math.abs(answer.advantage || 0)));
  const totals = group.answers.map(answer => answer.total).filter(total => total != null);
  const dead = totals.length > 1 && Math.max(...totals) - Math.min(...totals) < 1e-6;
  return h('article', {class: 'group', 'aria-label': `Group ${number + 1}`},
    h('header', {}, h('pre', {tabindex: 0, 'aria-label': 'Question'}, group.prompt),
      group.reference == null ? null : h('p', {}, `Reference answer: ${group.reference}`),
      dead ? h('p', {class: 'dead'}, 'Dead group: all its answers score alike, so it teaches nothing.') : null),
    ...group.answers.map(answer => answerCard(answer, largest, labels)));
}

function answerCard(answer, largest, labels) {
  const value = answer.advantage || 0, side = value > 0 ? 'up' : value < 0 ? 'down' : 'even';
  const chips = Object.entries(answer.rewards).map(([name, score]) => {
    const label = labels[name] || name;
    if (answer.errors[name]) return h('li', {class: 'bad', title: answer.errors[name]}, `${label}: failed. ${answer.errors[name]}`);
    return h('li', {class: score ? '' : 'zero'}, label, h('b', {}, score == null ? 'not judged' : short(score)));
  });
  if (answer.cut) chips.push(h('li', {class: 'cut'}, `cut at ${answer.tokens} tokens`));
  return h('div', {class: 'answer'},
    h('div', {class: `adv ${side}`},
      h('b', {title: 'Advantage', 'aria-label': `Advantage ${signed(answer.advantage)}`}, signed(answer.advantage)),
      h('div', {class: 'scale', 'aria-hidden': true}, h('i', {style: `width:${50 * Math.abs(value) / largest}%`})),
      h('small', {}, `total ${answer.total == null ? '–' : short(answer.total)}`)),
    h('div', {}, h('ul', {class: 'chips'}, ...chips),
      h('pre', {tabindex: 0, 'aria-label': 'Answer'}, answer.text || '(empty)')));
}

// --- what sets it going ---

const clock = setInterval(() => {
  if (!element.isConnected) {
    clearInterval(clock); watcher.disconnect(); sizes.disconnect(); theme.disconnect();
  } else if (Date.now() >= due) poll();
}, 250);
document.addEventListener('visibilitychange', () => { due = 0; });
const sizes = new ResizeObserver(() => { if (live.offsetParent) due = 0; });
sizes.observe(live);
const theme = new MutationObserver(() => { stamp++; drawAll(); });
theme.observe(document.body, {attributes: true, attributeFilter: ['class']});
follow(true);
poll();
