// The browser side of lab/ui/history/overlay.py: curves of several runs on one axis, asked for a few at a time.
// `element`, `props`, `server`, `trigger` and `watch` come from gradio.

const box = element.querySelector('.overlay'), plot = box.querySelector('.plot'), list = box.querySelector('.named');
const pick = name => box.querySelector('.' + name);
const DASHES = ['solid', '8px,3px', '2px,3px', '10px,3px,2px,3px'];
const LIGHT = ['#0072b2', '#c2500a', '#007a5a', '#a3407f', '#8a6a00', '#4b5a9e'];  // as in the live view
const DARK = ['#6cbcf0', '#f0a35e', '#3dcfa3', '#e59ccb', '#e8d44d', '#a9b5f2'];
const AGAIN = 4000;  // milliseconds between two looks at runs that train
let told = {runs: [], metrics: []}, curves = new Map(), hidden = new Set(), more = new Set(), turn = 0, asked = '', picked = false;

let loading = null;
const ready = () => loading ??= new Promise((resolve, reject) => {
  if (window.Plotly) return resolve();
  let script = document.querySelector('script[src="@plotly"]');  // another chart may be loading it
  if (!script) document.head.append(script = Object.assign(document.createElement('script'), {src: '@plotly'}));
  script.addEventListener('load', resolve); script.addEventListener('error', reject);
});
const css = name => getComputedStyle(box).getPropertyValue(name).trim();
const dark = () => document.body.classList.contains('dark');
const made = (tag, look, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(look)) if (value !== false) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const isShare = () => !!told.metrics.find(([key]) => key === pick('metric').value)?.[2];
const figure = value => value == null ? '–' : isShare() ? `${Math.round(value * 1000) / 10} %` : String(Number(value.toPrecision(4)));
const look = i => ({colour: (dark() ? DARK : LIGHT)[i % 6], dash: DASHES[Math.floor(i / 6) % DASHES.length]});

function options() {
  const select = pick('metric'), before = picked ? select.value : told.first;
  const first = told.metrics.map(([key, label]) => made('option', {value: key}, label));
  const others = [...more].filter(key => !told.metrics.some(([known]) => known === key)).sort();
  select.replaceChildren(...first);
  if (others.length) select.append(made('optgroup', {label: 'Other metrics'}, ...others.map(key => made('option', {value: key}, key))));
  select.value = before;
  if (!select.value) select.value = told.first || '';
}

function smoothed(values) {
  const over = Number(pick('smooth').value);
  if (over < 2) return values;
  let sum = 0;
  return values.map((value, i) => { sum += value - (i >= over ? values[i - over] : 0); return sum / Math.min(i + 1, over); });
}

function lines() {
  list.replaceChildren(...told.runs.map((one, i) => {
    const curve = curves.get(one.run), {colour, dash} = look(i), shown = !hidden.has(one.run);
    const y = curve?.y || [], best = y.length ? Math.max(...y) : null;
    const said = !curve ? 'is being read' : !y.length ? 'does not have this curve' : `${figure(y[0])} → ${figure(y[y.length - 1])}, highest ${figure(best)}`;
    const svg = `<svg width="26" height="8" aria-hidden="true"><line x1="0" y1="4" x2="26" y2="4" stroke="${colour}" stroke-width="${one.fixed ? 4 : 2.5}" stroke-dasharray="${dash === 'solid' ? '' : dash.replaceAll('px', '')}"/></svg>`;
    const button = made('button', {type: 'button', class: 'line', 'aria-pressed': String(shown), 'data-key': `line ${one.run}`, title: shown ? 'Hide this curve' : 'Show this curve'});
    button.innerHTML = svg;
    button.append(made('b', {}, one.name));
    button.addEventListener('click', () => { hidden.has(one.run) ? hidden.delete(one.run) : hidden.add(one.run); show(); list.querySelector(`[data-key="${CSS.escape(`line ${one.run}`)}"]`)?.focus(); });
    const item = made('li', {}, button, made('span', {class: 'help'}, said));
    if (!one.fixed) {
      const away = made('button', {type: 'button', class: 'way', 'aria-label': `Take ${one.name} away`}, 'Take away');
      away.addEventListener('click', () => trigger('untick', {run: one.run}));
      item.append(away);
    }
    return item;
  }));
}

function show() {
  lines();
  const label = pick('metric').selectedOptions[0]?.textContent || '';
  const drawn = told.runs.map((one, i) => ({...one, ...look(i), ...curves.get(one.run)})).filter(one => one.x?.length && !hidden.has(one.run));
  plot.setAttribute('aria-label', `${label} of ${told.runs.length} runs over ${pick('over').value}; the figures stand below.`);
  ready().then(() => {
    if (!box.offsetParent) return;
    const soft = css('--body-text-color-subdued'), grid = css('--border-color-primary');
    const axis = {gridcolor: grid, linecolor: grid, zeroline: false, tickfont: {color: soft, size: 12}};
    Plotly.react(plot, drawn.map(one => ({type: 'scatter', mode: one.x.length < 30 ? 'lines+markers' : 'lines', name: one.name, x: one.x,
        y: smoothed(one.y), line: {color: one.colour, width: one.fixed ? 3.2 : 1.8, dash: one.dash}, marker: {color: one.colour, size: 6}})),
      {uirevision: pick('metric').value + pick('over').value, hovermode: drawn.length > 12 ? 'closest' : 'x unified', showlegend: false, height: 340,
       margin: {l: 54, r: 14, t: 10, b: 42}, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
       font: {family: getComputedStyle(box).fontFamily, size: 12, color: css('--body-text-color')},
       modebar: {orientation: 'v', bgcolor: 'rgba(0,0,0,0)', color: soft, activecolor: css('--body-text-color')},
       hoverlabel: {bgcolor: css('--background-fill-primary'), bordercolor: grid, font: {color: css('--body-text-color')}, namelength: 40},
       xaxis: {...axis, showgrid: false, title: {text: pick('over').value === 'steps' ? 'Step' : 'Minutes of training', font: {color: soft}}},
       yaxis: {...axis, nticks: 6, tickformat: isShare() ? '.0%' : '~g', ...(isShare() ? {range: [-0.02, 1.04]} : {})}},
      {responsive: true, displaylogo: false, modeBarButtonsToRemove: ['sendChartToCloud', 'lasso2d', 'select2d', 'autoScale2d', 'zoomIn2d', 'zoomOut2d']});
    // The mouse's tools alone: the list below says the same to a keyboard.
    for (const tool of plot.querySelectorAll('.modebar-btn, [tabindex]')) if (tool.tabIndex >= 0) tool.tabIndex = -1;
  }, () => { plot.textContent = 'The curves cannot be drawn: plotly.js did not load.'; });
}

// Ask for the curves of these runs, a few at a time; a newer question ends an older one.
async function fetchAll(runs) {
  const mine = ++turn;
  for (let i = 0; i < runs.length; i += 4) {
    pick('busy').textContent = runs.length > 4 ? `Reading ${i} of ${runs.length} runs` : '';
    const part = runs.slice(i, i + 4).map(one => one.run);
    let reply = null;
    try { reply = await server.curves([part, pick('metric').value, pick('over').value]); } catch (error) { /* the header says that the lab is away */ }
    if (mine !== turn) return;
    for (const run of part) curves.set(run, reply?.runs?.find(one => one.run === run) || {x: [], y: []});
    const before = more.size;
    for (const one of reply?.runs || []) for (const name of one.names) more.add(name);
    if (more.size !== before) options();
    show();
  }
  pick('busy').textContent = '';
}

function anew() {
  told = JSON.parse(props.value || '{"runs": [], "metrics": []}');
  box.hidden = !told.runs.length;
  if (box.hidden) return;
  options();
  pick('minded').replaceChildren(...(told.runs.length > 1 ? told.notes : []).map(text => made('p', {class: 'help'}, text)));
  refresh();
}
function refresh() {  // what is shown already is not asked for again, unless it grows
  const key = pick('metric').value + pick('over').value;
  if (key !== asked) { curves = new Map(); asked = key; }
  show();
  if (box.offsetParent) fetchAll(told.runs.filter(one => one.active || !curves.has(one.run)));
}
for (const name of ['metric', 'over']) pick(name).addEventListener('change', () => { picked = picked || name === 'metric'; refresh(); });
pick('smooth').addEventListener('change', show);
watch('value', anew);
new MutationObserver(show).observe(document.body, {attributeFilter: ['class']});  // dark and light
new IntersectionObserver(entries => { if (entries.some(one => one.isIntersecting)) refresh(); }).observe(box);  // a hidden tab has no width
const timer = setInterval(() => {
  if (!element.isConnected) clearInterval(timer);
  else if (document.visibilityState === 'visible' && box.offsetParent && told.runs.some(one => one.active)) refresh();
}, AGAIN);
anew();
