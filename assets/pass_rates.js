// The histogram of pass rates of the Preflight tab (lab/ui/pass_rates.py).
const figure = element.querySelector('.pass-rates'), plot = figure.querySelector('.plot');
let loading = null;
const ready = () => loading ??= new Promise((resolve, reject) => {
  if (window.Plotly) return resolve();
  let script = document.querySelector('script[src="@plotly"]');  // the live view may be loading it
  if (!script) document.head.append(script = Object.assign(document.createElement('script'), {src: '@plotly'}));
  script.addEventListener('load', resolve); script.addEventListener('error', reject);
});
const css = name => getComputedStyle(figure).getPropertyValue(name).trim();
const draw = () => {
  const told = JSON.parse(props.value || 'null');
  figure.hidden = !told;
  if (!told) return;
  figure.querySelector('figcaption').textContent = told.caption;
  plot.setAttribute('aria-label', told.caption + ' ' + told.x.map((x, i) => x + ': ' + told.y[i]).join(', '));
  ready().then(() => {
    if (!figure.offsetParent) return;
    const soft = css('--body-text-color-subdued'), grid = css('--border-color-primary');
    Plotly.react(plot, [{type: 'bar', x: told.x, y: told.y, cliponaxis: false,
        marker: {color: told.y.map((_, i) => i && i < told.y.length - 1 ? css('--primary-500') : css('--warn-line'))},
        text: told.y.map(count => count || ''), textposition: 'outside', hovertemplate: 'right %{x}: %{y} questions<extra></extra>'}],
      {margin: {l: 36, r: 8, t: 20, b: 44}, height: 220, bargap: .12, showlegend: false,
       paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
       font: {family: getComputedStyle(figure).fontFamily, size: 12, color: css('--body-text-color')},
       xaxis: {type: 'category', tickfont: {color: soft}, fixedrange: true},
       yaxis: {tickfont: {color: soft}, gridcolor: grid, zeroline: false, rangemode: 'tozero', nticks: 5, tickformat: 'd', fixedrange: true}},
      {responsive: true, displayModeBar: false});
  }, () => { plot.textContent = told.x.map((x, i) => x + ': ' + told.y[i]).join(', '); });
};
watch('value', draw);
new MutationObserver(draw).observe(document.body, {attributeFilter: ['class']});  // dark and light
new IntersectionObserver(draw).observe(figure.parentElement);  // a hidden tab has no width
draw();