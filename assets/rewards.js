// The browser side of lab/ui/rewards/cards.py: cards of rewards, and the library to add from.
// Runs once, when the Rewards tab is first opened. `element`, `props`, `trigger` and `watch` come from gradio.
// props.value: {"int": {"on": true, "weight": 1, ...}} as JSON; what is not in it is off, with its defaults.
// props.told: {"stands": {"int": {"text", "share"}}, "marks": {"rewards.int.weight": [class, text]}} as JSON.

const cards = [...element.querySelectorAll('.card')], nothing = element.querySelector('.empty');
const items = [...element.querySelectorAll('.item')], groups = [...element.querySelectorAll('.kind-group')];
const field = element.querySelector('input[type=search]'), none = element.querySelector('.none');
const parts = card => [...card.querySelectorAll('[data-part]')];
const shown = new Set();  // cards that stay in view though they were switched off here
let own = null;           // the value that was written here, which is not to be shown again

const parsed = text => { try { return JSON.parse(text || '{}'); } catch (error) { return {}; } };
const preset = input => input.dataset.part === 'on' ? false
  : input.dataset.part === 'kind' ? input.dataset.default : JSON.parse(input.dataset.default);
const isText = input => input.type === 'text' || input.tagName === 'TEXTAREA';

function read(input) {
  if (input.type === 'checkbox') return input.checked;
  if (input.type === 'number') return input.value === '' || Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber;
  if (isText(input) || input.dataset.part === 'kind') return input.value;
  return JSON.parse(input.value);  // a choice
}

function write(input, value) {
  if (input.type === 'checkbox') input.checked = value === true;
  else if (input.type === 'number') input.value = value ?? '';
  else if (isText(input) || input.dataset.part === 'kind') input.value = value ?? '';
  else input.value = JSON.stringify(value);
}

function view() {  // what follows from the inputs
  const chosen = new Set();
  for (const card of cards) {
    const on = card.querySelector('[data-part=on]').checked, kind = card.querySelector('[data-part=kind]').value;
    if (on) chosen.add(card.dataset.name);
    card.hidden = !on && !shown.has(card.dataset.name);
    card.classList.toggle('off', !on);
    card.dataset.kind = kind;
  }
  items.forEach(item => item.setAttribute('aria-pressed', String(chosen.has(item.dataset.name))));
  nothing.hidden = cards.some(card => !card.hidden);
}

function show() {  // settings from elsewhere: a set, a recipe, a draft
  if (props.value === own) return;
  const value = parsed(props.value);
  shown.clear();
  for (const card of cards) for (const input of parts(card)) {
    const given = value[card.dataset.name] || {};
    write(input, input.dataset.part in given ? given[input.dataset.part] : preset(input));
  }
  own = props.value;
  view();
}

function tell() {
  const {stands = {}, marks = {}} = parsed(props.told);
  for (const card of cards) {
    const name = card.dataset.name, stand = stands[name], at = card.querySelector('.stand');
    at.querySelector('.text').textContent = stand ? stand.text : 'Switched off';
    at.querySelector('i').style.width = `${100 * (stand ? stand.share : 0)}%`;
    for (const input of parts(card)) {
      const box = input.closest('.field');
      if (!box) continue;
      const mark = marks[`rewards.${name}.${input.dataset.part}`], info = box.querySelector('.info');
      box.classList.toggle('wrong-field', mark?.[0] === 'wrong-field');
      box.classList.toggle('doubtful-field', mark?.[0] === 'doubtful-field');
      input.setAttribute('aria-invalid', String(mark?.[0] === 'wrong-field'));
      const text = mark ? mark[1] : info.dataset.info;
      if (info.textContent !== text) info.textContent = text;
    }
  }
}

function changed() {
  const value = {};
  for (const card of cards) {
    const held = Object.fromEntries(parts(card).map(input => [input.dataset.part, read(input)]));
    if (held.on || parts(card).some(input => read(input) !== preset(input))) value[card.dataset.name] = held;
  }
  own = JSON.stringify(value);
  props.value = own;
  view();
  trigger('input');
}

function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  items.forEach(item => { item.hidden = !words.every(word => item.dataset.text.includes(word)); });
  groups.forEach(group => { group.hidden = !group.querySelector('.item:not([hidden])'); });
  none.hidden = items.some(item => !item.hidden);
}

element.querySelector('.cards').addEventListener('input', event => {
  const card = event.target.closest('.card');
  if (!card || !event.target.dataset.part) return;
  if (event.target.dataset.part === 'on') shown.add(card.dataset.name);  // it keeps its place until something else is shown
  changed();
});
items.forEach(item => item.addEventListener('click', () => {
  const card = cards.find(card => card.dataset.name === item.dataset.name), on = card.querySelector('[data-part=on]');
  on.checked = !on.checked;
  shown.delete(card.dataset.name);
  changed();
}));
field.addEventListener('input', search);
field.addEventListener('keydown', event => {
  if (event.key === 'Escape') { field.value = ''; search(); }
  if (event.key === 'Enter') { event.preventDefault(); items.find(item => !item.hidden)?.focus(); }
});
watch('value', show);
watch('told', tell);
show();
tell();
