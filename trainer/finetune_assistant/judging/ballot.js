"use strict";
// Votes stay in this browser until they are downloaded; nothing is sent anywhere.
const name = document.body.dataset.name;
const ballots = [...document.querySelectorAll("article")];
const rater = document.getElementById("rater");
const store = (() => { try { return window.localStorage; } catch (error) { return null; } })();
const kept = JSON.parse((store && store.getItem(name)) || "{}");

function show() {
  const voted = ballots.filter((ballot) => kept[ballot.dataset.id]).length;
  document.getElementById("voted").textContent = `${voted} of ${ballots.length}`;
  document.getElementById("download").disabled = !rater.value.trim() || !voted;
}

function keep() {
  kept.rater = rater.value;
  if (store) store.setItem(name, JSON.stringify(kept));
  show();
}

function cell(text) {
  return `"${text.replaceAll('"', '""')}"`;
}

rater.value = kept.rater || "";
rater.addEventListener("input", keep);
for (const ballot of ballots) {
  for (const choice of ballot.querySelectorAll("input")) {
    choice.checked = kept[ballot.dataset.id] === choice.value;
    choice.addEventListener("change", () => { kept[ballot.dataset.id] = choice.value; keep(); });
  }
}
document.getElementById("download").addEventListener("click", () => {
  const rows = ballots.filter((ballot) => kept[ballot.dataset.id]).map((ballot) => [ballot.dataset.id, kept[ballot.dataset.id], rater.value.trim()]);
  const table = [["id", "vote", "rater"], ...rows].map((row) => row.map(cell).join(",")).join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table + "\r\n"], { type: "text/csv" }));
  link.download = `votes-${rater.value.trim().replace(/[^\w-]+/g, "-")}.csv`;
  link.click();
});
show();
