// The browser side of lab/ui/live.py: asks for what is new once a second and draws it.
// Runs once, when the Train tab is first opened. `element`, `server` and `trigger` come from gradio.

const root = document.getElementById('live') || element;
const live = element.querySelector('.live');
const $ = selector => live.querySelector(selector);
const SHARE = 12;  // it draws for at most one part in so many of the time
const OFFSETS = [1, 2, 4, 8, 10];  // seconds between two tries while the server is away
const ENOUGH = 4500;               // points in the page before the run is loaded anew, thinned
const STORED = 'grpo-lab-run', SMOOTHING = 'grpo-lab-smoothing';
const WORDS = {none: 'No runs yet', starting: 'Starting', running: 'Training', pausing: 'Pausing after this step',
  paused: 'Paused, in memory', stopping: 'Stopping after this step',
  stopped: 'Stopped', failed: 'Failed', finished: 'Finished', damaged: 'Damaged', error: 'Something is wrong'};
const ACTIVE = ['starting', 'running', 'pausing', 'paused', 'stopping'];
const DASHES = ['solid', '8px,2px', '2px,2px', '9px,2px,2px,2px', '14px,3px', '5px,2px,1px,2px,1px,2px'];  // short gaps: curves jump
const LIGHT = ['#0072b2', '#c2500a', '#007a5a', '#a3407f', '#8a6a00', '#4b5a9e'];  // told apart by most eyes,
const DARK = ['#6cbcf0', '#f0a35e', '#3dcfa3', '#e59ccb', '#e8d44d', '#a9b5f2'];    // and by their dashes

let wanted = sessionStorage.getItem(STORED) || '';  // '' follows the active or newest run
let run = '', epoch = -1, cursor = 0, names = 0;    // what is shown, and up to where
let x = [], y = [], charts = [], detail = {}, state = {}, stamp = 0;
let other = '';                                     // an active run that is not the one shown
let heardAt = Date.now();                           // when the server told the state
let told = '', busy = false, again = false, fails = 0, due = 0;
let smoothing = 0, zoomed = null;                   // of all curves: share of the mean so far, steps that are shown

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

const size = key => key === 'goal' ? ' first' : key.startsWith('reward') ? ' wide' : '';

function makeCharts(specs) {
  const box = $('#live-charts');
  for (const chart of charts) { watcher.unobserve(chart.box); if (window.Plotly) Plotly.purge(chart.plot); }
  const small = specs.filter(spec => !size(spec.key));
  const half = small.length % 3 === 2 ? small.slice(-2) : [];  // two in the last row share it
  charts = specs.map(spec => {
    const plot = h('div', {class: 'plot', role: 'group', 'aria-label': `${spec.title}: curve`});
    const now = h('span', {class: 'now'});
    const large = h('button', {type: 'button', class: 'large', tabindex: -1, title: 'Full screen', 'aria-label': `${spec.title} on the full screen`});
    large.innerHTML = '<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d="M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4" fill="none" stroke="currentColor" stroke-width="1.6"/></svg>';
    large.addEventListener('click', () => document.fullscreenElement ? document.exitFullscreen() : box.requestFullscreen());
    const box = h('figure', {class: 'chart' + (size(spec.key) || (half.includes(spec) ? ' half' : '')), id: `live-chart-${spec.key}`},
      h('figcaption', {}, h('b', {}, spec.title), now, document.fullscreenEnabled ? large : null), h('p', {class: 'why'}, spec.help), plot);
    box.addEventListener('fullscreenchange', () => window.Plotly && Plotly.Plots.resize(plot));
    return {spec, box, plot, now, drawn: 0, stamp: -1, seen: false};
  });
  box.replaceChildren(...charts.map(chart => chart.box));
  for (const chart of charts) watcher.observe(chart.box);
}

const watcher = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const chart = charts.find(one => one.box === entry.target);
    if (chart) { chart.seen = entry.isIntersecting; draw(chart); }
  }
}, {rootMargin: '120px'});

function traces({spec}) {
  const colours = dark() ? DARK : LIGHT, from = at => ({x: x.slice(), y: y[at].slice()});
  const few = x.length < 2, made = [], smooth = smoothing > 0 && !few;
  if (spec.band) {
    const edge = {type: 'scatter', mode: 'lines', line: {width: 0}, hoverinfo: 'skip', showlegend: false};
    made.push({...edge, ...from(spec.band[0]), name: 'low'},
              {...edge, ...from(spec.band[1]), name: 'high', fill: 'tonexty', fillcolor: colours[0] + '2e'});
  }
  const shapes = spec.lines.filter(line => line.kind === 'shape');  // goals are solid and bold, shapes thin and dashed
  const dash = (line, i) => DASHES[(line.kind === 'goal' ? 0 : line.kind === 'shape' ? 1 + shapes.indexOf(line) : i) % DASHES.length];
  const width = line => ({goal: 3.5, shape: 1.2})[line.kind] || 2;
  spec.lines.forEach((line, i) => made.push({type: 'scatter', mode: few ? 'markers' : 'lines', name: line.name, connectgaps: true,
    ...from(line.at), ...(smooth ? {y: smoothed(y[line.at])} : {}),
    line: {color: colours[i % colours.length], width: width(line), dash: dash(line, i)},
    marker: {color: colours[i % colours.length], size: 7}}));
  if (smooth) spec.lines.forEach((line, i) => made.push({type: 'scatter', mode: 'lines', ...from(line.at), hoverinfo: 'skip',
    showlegend: false, name: `${line.name}, each step`, opacity: 0.3, line: {color: colours[i % colours.length], width: 1}}));
  const asked = spec.key === 'goal' ? detail.goal?.held_out || [] : [];  // last, for extendTraces goes by place
  if (asked.length) made.push({type: 'scatter', mode: 'lines+markers', name: 'Held out', x: asked.map(point => point[0]),
    y: asked.map(point => point[1]), line: {color: colours[1], width: 3.5}, marker: {color: colours[1], size: 9, symbol: 'diamond'}});
  return made;
}

function smoothed(values) {  // exponential mean, without the pull towards 0 at its start (Kingma & Ba 2015, section 3)
  let sum = 0, weight = 0;
  return values.map(value => {
    if (value == null) return null;
    sum = smoothing * sum + (1 - smoothing) * value; weight = smoothing * weight + 1 - smoothing;
    return sum / weight;
  });
}

function layout({spec}) {
  const asked = spec.key === 'goal' && detail.goal?.held_out.length;
  const several = spec.lines.length > 1 || asked, grid = css('--border-color-primary'), soft = css('--body-text-color-subdued');
  const axis = {gridcolor: grid, linecolor: grid, zeroline: false, tickfont: {color: soft, size: 12}, automargin: false};
  return {uirevision: run, hovermode: 'x unified', dragmode: 'zoom', showlegend: several,
    margin: {l: 50, r: 14, t: several ? 34 : 10, b: 30}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {family: getComputedStyle(live).fontFamily, size: 12, color: css('--body-text-color')},
    hoverlabel: {bgcolor: css('--background-fill-primary'), bordercolor: grid, font: {color: css('--body-text-color')}},
    modebar: {orientation: 'v', bgcolor: 'rgba(0,0,0,0)', color: soft, activecolor: css('--body-text-color')},
    shapes: (detail.resumed || []).map(step => ({type: 'line', x0: step, x1: step, yref: 'paper', y0: 0, y1: 1, layer: 'below',
      line: {color: soft, width: 1, dash: 'dot'}, label: {text: size(spec.key) ? 'resumed' : '', textangle: 0, textposition: 'end', xanchor: 'left', yanchor: 'top', font: {size: 11, color: soft}}})),
    xaxis: {...axis, showgrid: false, ...(zoomed ? {range: zoomed} : {}), hoverformat: 'd', unifiedhovertitle: {text: 'Step %{x}'}, ...(x.length < 5 ? {dtick: 1} : {})},
    yaxis: {...axis, hoverformat: spec.percent ? '.0%' : '.4~g', tickformat: spec.percent ? '.0%' : spec.key === 'lr' ? '.1~e' : '~g',
      nticks: 6, ...(spec.percent ? {range: [-0.02, 1.04]} : {}), ...(['length', 'rewards'].includes(spec.key) ? {rangemode: 'tozero'} : {})},
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: {size: 12}}};
}

const CONFIG = {responsive: true, displaylogo: false, doubleClick: 'reset+autosize',
  modeBarButtonsToRemove: ['sendChartToCloud', 'lasso2d', 'select2d', 'autoScale2d', 'zoomIn2d', 'zoomOut2d']};

function draw(chart) {
  const last = chart.spec.lines.map(line => newest(line.at));
  const write = chart.spec.percent ? percent : short;
  const now = x.length ? chart.spec.lines.length === 1 && chart.spec.key !== 'goal' ? write(last[0]) : '' : '';
  if (chart.now.textContent !== now) chart.now.textContent = now;
  if (!chart.seen || !window.Plotly || !live.offsetParent) return;
  if (chart.stamp !== stamp || chart.drawn < 5 || smoothing && x.length > chart.drawn) {
    const made = traces(chart);  // what is hidden stays hidden, whoever hid it
    for (const trace of made) { const before = chart.plot.data?.find(one => one.name === trace.name)?.visible; if (before != null) trace.visible = before; }
    const first = !chart.plot.data;
    Plotly.react(chart.plot, made, layout(chart), CONFIG);
    if (first) chart.plot.on('plotly_relayout', changed => zoom(chart, changed));
  } else if (x.length > chart.drawn) {
    const order = [...(chart.spec.band || []), ...chart.spec.lines.map(line => line.at)];
    Plotly.extendTraces(chart.plot, {x: order.map(() => x.slice(chart.drawn)), y: order.map(at => y[at].slice(chart.drawn))},
      order.map((_, i) => i));
  }
  chart.drawn = x.length; chart.stamp = stamp;
  // The mouse's tools alone: the figures and the summary say the same to a keyboard.
  for (const tool of chart.plot.querySelectorAll('.modebar-btn, [tabindex]')) if (tool.tabIndex >= 0) tool.tabIndex = -1;
}
function drawAll() { charts.forEach(draw); }

function zoom(from, changed) {  // one time axis for all curves: who looks closer at some steps does so in each
  const range = changed['xaxis.range'] || [changed['xaxis.range[0]'], changed['xaxis.range[1]']];
  if (range[0] === undefined && !changed['xaxis.autorange']) return;
  if (JSON.stringify(zoomed) === JSON.stringify(range[0] === undefined ? null : range)) return;
  zoomed = range[0] === undefined ? null : range;
  for (const one of charts) if (one !== from && one.plot.data) Plotly.relayout(one.plot, zoomed ? {'xaxis.range': zoomed} : {'xaxis.autorange': true});
}

const slider = $('#live-smoothing');
function smooth(percents) {
  smoothing = percents / 100; slider.value = percents;
  slider.setAttribute('aria-valuetext', percents ? `${percents} per cent` : 'off');
  $('.smoothing output').textContent = percents ? `${percents} %` : 'off';
  stamp++; drawAll();
}
slider.addEventListener('input', () => { localStorage.setItem(SMOOTHING, slider.value); smooth(Number(slider.value)); });
smooth(Math.min(95, Number(localStorage.getItem(SMOOTHING)) || 0));
const newest = at => { for (let i = x.length - 1; i >= 0; i--) if (y[at][i] != null) return y[at][i]; return null; };

function lineOf(key, place = 0) {
  const line = charts.find(chart => chart.spec.key === key)?.spec.lines[place];
  return line === undefined ? null : line.at;
}

// --- words and figures ---

function show() {
  const status = state.status || 'none', share = state.steps ? Math.min(1, (state.step || 0) / state.steps) : 0;
  live.dataset.status = root.dataset.status = status;
  root.dataset.step = state.step ?? 0; root.dataset.sampled = state.sampled ?? ''; root.dataset.run = run;
  set('.word', status === 'starting' && state.phase ? sentence(state.phase) : WORDS[status] || status);
  set('.about', run ? [detail.model, detail.engine, detail.stack && `on the ${detail.stack} stack, because ${detail.why}`].filter(Boolean).join(' · ') : '');
  const bar = $('.bar'), value = Math.round(share * 100);
  bar.setAttribute('aria-valuenow', value);
  bar.setAttribute('aria-valuetext', run ? `step ${state.step} of ${state.steps}` : 'no run');
  bar.firstElementChild.style.width = `${share * 100}%`;
  const going = ACTIVE.includes(status);
  set('.under .steps', run && status !== 'damaged' ? `Step ${state.step} of ${state.steps} · ${value} %` : '');
  $('.which').hidden = !run;
  showDoing();
  set('.under .left', going && state.left != null ? `About ${time(state.left)} left` : '');
  showFigures(going);
  showMessages();
  drawAll();
  const key = `${run} ${status}`;
  if (key !== told) { told = key; trigger('run_state', {run, status}); }
}
function showDoing() {  // what goes on within the step, and for how long: the clock runs between two answers of the server
  let text = '';
  if (ACTIVE.includes(state.status) && state.for != null && !fails) {
    const [what, done, of] = state.now || [];
    const part = what ? sentence(what) + (of ? ` ${done} of ${of}` : '') + ', ' : '';
    text = `${part}${clockOf(state.for + (Date.now() - heardAt) / 1000)}`;
  }
  set('.doing', text);
}
const clockOf = seconds => seconds < 60 ? `${Math.floor(seconds)} s` : time(Math.floor(seconds));
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1);

function showFigures(going) {
  const box = $('#live-figures'), reward = lineOf('reward');
  box.hidden = $('#live-charts').hidden = $('#live-tools').hidden = !x.length;
  if (!x.length) return set('#live-summary', run ? `${$('.word').textContent}. No step yet.` : '');
  const now = reward == null ? null : newest(reward), first = detail.reward_first;
  const length = lineOf('length'), cut = lineOf('cut'), right = lineOf('dead', 0), wrong = lineOf('dead', 1);
  const dead = right == null || wrong == null ? null : (newest(right) ?? 0) + (newest(wrong) ?? 0);
  const figures = [...goalFigures(),
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
  const leading = figures.length - 6 - (gpu != null);
  figures.forEach(([name, value, small], i) => {
    const [dt, dd] = box.children[i].children;
    box.children[i].className = i < leading ? 'goal' : '';
    for (const [at, text] of [[dt, name], [dd.firstChild, value], [dd.lastChild, small]]) {
      if (at.textContent !== text) at.textContent = text;
    }
  });
  set('#live-summary', `${$('.word').textContent}. Step ${state.step} of ${state.steps}. `
    + figures.map(([name, value, small]) => `${name} ${value} ${small}`.trim()).join(', ') + '.');
}

function goalFigures() {  // what was meant comes first, held out where it was asked
  const goal = detail.goal;
  if (!goal) return [];
  if (!goal.has) return [['Right', '–', 'not known: no goal is rewarded']];
  const figures = [], moved = goal.moved, at = lineOf('goal');
  const name = whole => whole ? 'Right' : 'Goal points';
  if (moved?.source === 'held out') figures.push([`${name(moved.whole)}, held out`, share(moved.last),
    `from ${share(moved.first)}, at step ${moved.step}` + (moved.best && moved.best[1] > moved.last ? `; best ${share(moved.best[1])} at ${moved.best[0]}` : '')]);
  if (at != null) figures.push([`${name(charts.find(chart => chart.spec.key === 'goal').spec.lines[0].name === 'Right')} in training`, share(newest(at)),
    moved?.source === 'in training' ? `from ${share(moved.first)}` : '']);
  return figures;
}
const share = value => value == null ? '–' : value > 0 && value < 0.095 ? `${(value * 100).toFixed(1)} %` : percent(value);

let messageKey = '';
function showMessages() {
  const problem = detail.problem, notices = detail.notices || [], errors = Object.entries(detail.errors || {});
  const verdict = detail.goal?.verdict, aimless = run && detail.goal && !detail.goal.has;
  const key = JSON.stringify([fails > 0, run, other, problem, notices, errors, state.status, verdict, aimless]);
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
  if (verdict) made.push(h('div', {class: `verdict ${verdict.level}`, id: 'live-verdict'},
    h('p', {}, `Held-out verdict${verdict.step == null ? '' : ` on the adapter of step ${verdict.step}`}`), h('p', {}, verdict.headline)));
  if (aimless) made.push(h('div', {class: 'warning', id: 'live-no-goal'}, h('p', {}, 'No goal reward is chosen.'),
    h('p', {}, 'So nothing says whether answers are right: the reward below says only how they are made.')));
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
  heardAt = Date.now();
  const changed = reply.status !== state.status || reply.notices !== state.notices || reply.errors !== state.errors || reply.asked !== state.asked;
  state = reply;
  for (const [step, ...values] of reply.rows) { x.push(step); values.forEach((value, i) => y[i].push(value)); }
  cursor = reply.cursor;
  if (changed) { detail = await ask('detail', [run]); stamp++; }  // the goal's chart has held-out points of it
  return !!reply.more;
}
let known = false;

async function open(before) {
  const reply = await ask('history', [wanted]);
  if (before !== wanted) return true;
  const fresh = reply.run !== run;
  state = reply; run = reply.run || ''; heardAt = Date.now();
  if (!run) { wanted = ''; sessionStorage.removeItem(STORED); x = []; y = []; names = 0; epoch = -1; cursor = 0; detail = {}; makeCharts([]); list(); return false; }
  if (wanted && wanted !== run) { wanted = ''; sessionStorage.removeItem(STORED); }  // it was deleted
  ({x, y, epoch, cursor, detail} = reply);
  names = y.length; stamp++;
  if (fresh || JSON.stringify(reply.charts) !== JSON.stringify(charts.map(chart => chart.spec))) makeCharts(reply.charts);
  if (fresh) { zoomed = null; list(); }
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
  const began = performance.now();
  try { show(); } catch (error) { console.error(error); }
  const rest = SHARE * (performance.now() - began);  // what draws takes the processor from what trains
  due = Date.now() + Math.max(rest, fails ? OFFSETS[Math.min(fails, OFFSETS.length) - 1] * 1000
    : ACTIVE.includes(state.status) ? 950 : 1950);
}

// --- which run ---

async function list() {
  const select = $('#live-run');
  try {
    const found = await ask('listing', []);
    const day = new Intl.DateTimeFormat(undefined, {month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit'});
    select.replaceChildren(h('option', {value: ''}, found.length ? 'Running or newest run' : 'No runs yet'), ...found.map(one =>
      h('option', {value: one.run}, [one.name || one.run, one.name && one.created && day.format(one.created * 1000)].filter(Boolean).join(' · '))));
    select.value = wanted;
  } catch (error) { /* the next poll says that the server is away */ }
}
function choose(id, quiet) {
  wanted = id; known = false; other = '';
  if (id) sessionStorage.setItem(STORED, id); else sessionStorage.removeItem(STORED);
  $('#live-run').value = id;
  window.dispatchEvent(new CustomEvent('grpo-lab-shown'));
  if (!quiet) poll();
}
$('#live-run').addEventListener('change', event => choose(event.target.value));
$('#live-run').addEventListener('focus', list);
window.addEventListener('grpo-lab-show', event => { choose(event.detail || ''); list(); });

// --- what sets it going ---

const clock = setInterval(() => {
  if (!element.isConnected) {
    clearInterval(clock); watcher.disconnect(); sizes.disconnect(); theme.disconnect();
  } else { showDoing(); if (Date.now() >= due) poll(); }
}, 250);
document.addEventListener('visibilitychange', () => { due = 0; });
const sizes = new ResizeObserver(() => { if (live.offsetParent) due = 0; });
sizes.observe(live);
const theme = new MutationObserver(() => { stamp++; drawAll(); });
theme.observe(document.body, {attributes: true, attributeFilter: ['class']});
poll();
