(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const drawn = new Set();

  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"),
      fixedrange: false,
    };
    return Object.assign({}, layout, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 12.5 },
      hoverlabel: {
        align: "left", bgcolor: colour("--panel"), bordercolor: colour("--line"),
        font: { color: colour("--ink"), size: 12 },
      },
      hovermode: "closest",
      xaxis: Object.assign({}, axis, layout.xaxis),
      yaxis: Object.assign({}, axis, layout.yaxis),
    });
  }

  function draw(element) {
    const figure = figures[element.dataset.chart];
    Plotly.react(element, figure.data, themed(figure.layout), {
      responsive: true, displaylogo: false, displayModeBar: false,
    });
    drawn.add(element);
  }

  // A chart in a closed box has no width: draw it when the box opens.
  for (const element of document.querySelectorAll(".chart")) {
    const box = element.closest("details");
    if (box === null || box.open) draw(element);
    if (box !== null) box.addEventListener("toggle", function () {
      if (box.open) draw(element);
    });
  }
  const redraw = function () { drawn.forEach(draw); };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.matchMedia("print").addEventListener("change", redraw);
})();
