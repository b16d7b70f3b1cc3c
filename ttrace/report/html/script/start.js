// Everything begins here, once the page is there.

const start = async () => {
  if (byId("explore") === null) return; // a report without tensors
  prepare(await unpack(byId("summary").textContent));
  byId("explore").hidden = false;
  for (const part of document.querySelectorAll(".static")) part.hidden = true;
  startFilters();
  startPlot();
  startHeat();
  startTree();
  startTable();
  startDetails();
  setFilters({});
  document.documentElement.dataset.ready = "";
  setTimeout(linkIds);
};

start().catch((error) => {
  const broken = byId("broken");
  if (broken === null) throw error;
  byId("explore").hidden = true;
  for (const part of document.querySelectorAll(".static")) part.hidden = false;
  broken.textContent = "The interactive part needs a browser of 2023 or newer (" +
    `${error.message}). The first failures and the modules are below.`;
  broken.hidden = false;
});
