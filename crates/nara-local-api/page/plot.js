// Small plots.

import { draw, make } from "./dom.js";

const WIDTH = 240;
const HEIGHT = 60;

const points = (values, low, high) => {
  const step = values.length > 1 ? WIDTH / (values.length - 1) : 0;
  const size = high - low || 1;
  return values.map((value, index) => {
    const y = value === null ? null : HEIGHT - 2 - ((value - low) / size) * (HEIGHT - 4);
    return [index * step, y];
  });
};

const line = (found) => {
  let path = "";
  let before = false;
  for (const [x, y] of found) {
    if (y !== null) path += `${before ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    before = y !== null;
  }
  return path;
};

/**
 * A figure with a line for each series over the same period. `words` formats a value. The first series is filled.
 */
export const plot = (title, series, words, minutes) => {
  const values = series.flatMap(({ values }) => values).filter((value) => value !== null);
  const last = (values) => values.findLast((value) => value !== null) ?? null;
  const now = series.map(({ name, values }) => `${name ? `${name} ` : ""}${words(last(values))}`).join(", ");
  const figure = make(
    "figure",
    {},
    make("figcaption", {}, make("span", {}, title), make("strong", {}, words(last(series[0].values)))),
  );
  const known = values.length > 1;
  const high = known ? Math.max(...values) : 1;
  // Nearly constant values must not fill the whole height.
  const least = known ? Math.min(...values) : 0;
  const low = least > high * 0.9 && high > 0 ? Math.max(0, high * 0.9) : Math.min(least, 0);
  const label = known ? `${title}: ${now} now, at least ${words(least)} and at most ${words(high)} in ${minutes}` : `${title}: ${now} now`;
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  svg.append(draw("line", { class: "plot-base", x1: 0, y1: HEIGHT - 1, x2: WIDTH, y2: HEIGHT - 1 }));
  if (known) {
    series.forEach(({ values }, index) => {
      const path = line(points(values, low, high));
      if (index === 0 && !values.includes(null)) {
        svg.append(draw("path", { class: "plot-area", d: `${path}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z` }));
      }
      svg.append(draw("path", { class: index === 0 ? "plot-line" : "plot-line second", d: path }));
    });
  }
  figure.append(svg);
  const second = series[1];
  figure.append(
    make(
      "p",
      { class: "range" },
      make("span", {}, known ? `last ${minutes}` : "the first minute is being measured"),
      make("span", {}, second ? `${second.name}: ${words(last(second.values))}` : known ? `at most ${words(high)}` : ""),
    ),
  );
  return figure;
};
