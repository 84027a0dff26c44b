// What is said of a result, once for the page and the report.

export const number = (value) => value.toFixed(2);

/** Seconds -> 0:07, 12:40 */
export function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export const duration = (seconds) => (seconds < 60 ? `${seconds.toFixed(1)} s` : `${clock(seconds)} min`);

export const date = (when) => new Date(when).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** {title, sentence, shape} of a prediction; the shape is one of index.html's symbols. */
export function verdict(prediction) {
  const { score, threshold, decision, reason } = prediction;
  if (score === null) return { title: "No answer", sentence: reason, shape: "none" };
  if (threshold === null) {
    return { title: decision, sentence: `Score ${number(score)}, the highest of its classes once they are weighed.`, shape: "class" };
  }
  const positive = score >= threshold;
  const where = positive ? "at or above" : "below";
  // Two decimals may not tell a score from its threshold.
  const digits = number(score) === number(threshold) ? 4 : 2;
  return {
    title: decision,
    sentence: `Score ${score.toFixed(digits)}: ${where} the threshold of ${threshold.toFixed(digits)}.`,
    shape: positive ? "above" : "below",
  };
}

/** {badge, sentence, agree} on how far the parts of a recording agree; null if it has none. */
export function spread({ windows, threshold, score }) {
  if (!windows.length) return null;
  if (windows.length === 1) {
    return {
      badge: "One part only",
      sentence: "The recording is no longer than what the model hears at once, so nothing shows how steady the score is. Record longer to see.",
      agree: false,
    };
  }
  const scores = windows.map((window) => window.score);
  const range = `Its ${windows.length} parts scored from ${number(Math.min(...scores))} to ${number(Math.max(...scores))}.`;
  if (threshold === null) return { badge: "Spread of the parts", sentence: range, agree: false };
  const other = scores.filter((own) => own >= threshold !== score >= threshold).length;
  if (!other) return { badge: "All parts agree", sentence: `${range} All are on the same side of the threshold.`, agree: true };
  return {
    badge: "Parts disagree",
    sentence: `${range} ${other} of ${windows.length} ${other === 1 ? "is" : "are"} on the other side of the threshold.`,
    agree: false,
  };
}

export const SPREAD_MEANING =
  "A recording is heard in parts that overlap by half, and its score comes from all of them together. Their range shows how " +
  "much the model’s answer changes within this one recording. It is not a margin of error: a model can be steady and wrong.";
