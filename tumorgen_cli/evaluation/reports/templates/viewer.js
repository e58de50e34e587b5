// Unpacks NiiVue when it is first needed, and shows crops of pairs or volumes that the reader chooses.
const viewer = (() => {
  const box = document.getElementById("viewer");
  const status = document.getElementById("status");
  const labels = box.dataset.labels.split(" ").map(Number);
  const state = { niivue: null, scan: null, before: null, mask: null, show: "mask" };
  const supported = typeof DecompressionStream !== "undefined" && document.createElement("canvas").getContext("webgl2");
  if (!supported) {
    document.documentElement.classList.add("no-viewer");
    status.textContent = "This browser has no WebGL2, which the 3D viewer needs; the pictures are complete without it.";
    return null;
  }

  function bytes(element) {
    return Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
  }

  async function unpack(element) {
    const stream = new Blob([bytes(element)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  async function start() {
    if (state.niivue) return state.niivue;
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unpack(document.getElementById("niivue")));
    document.head.append(script);
    const made = new niivue.Niivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [1, 0.85, 0, 0.6],
      crosshairWidthUnit: "percent",
      crosshairWidth: 0.3,
      crosshairGap: 3,
      fontColor: [1, 1, 1, 1],
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      showAllOrientationMarkers: true,
      dragAndDropEnabled: false,
      logLevel: "error",
    });
    await made.attachToCanvas(document.getElementById("canvas"));
    made.opts.multiplanarShowRender = 1; // always
    made.opts.multiplanarLayout = 2; // two by two
    made.opts.tileMargin = 4;
    state.niivue = made;
    return made;
  }

  function part(name, kind) {
    return [...document.querySelectorAll("script.crop")].find(
      (each) => each.dataset.case === name && each.dataset.part === kind,
    );
  }

  const asMask = (content, name) => niivue.NVImage.new(content, name, "red", 0.55, null, 0.5, 1);

  async function openCrop(name) {
    if (!name || !part(name, "after")) {
      tell("This pair has no crop in the page: open its image and label with “Open written volumes”.");
      return;
    }
    await guarded(name, async () => {
      const after = await unpack(part(name, "after"));
      state.scan = await niivue.NVImage.new(after.slice(0), "after.nii", "gray");
      state.before = part(name, "before") ? await niivue.NVImage.new(await before(name, after), "before.nii", "gray") : null;
      state.mask = await asMask(await unpack(part(name, "mask")), "mask.nii");
    });
  }

  // the levels before painting are those after it less a difference, modulo 256
  async function before(name, after) {
    const difference = new Uint8Array(await unpack(part(name, "before")));
    const found = after.slice(0);
    const levels = new Uint8Array(found, 352);
    difference.forEach((value, i) => { levels[i] -= value; });
    return found;
  }

  async function openFiles(files) {
    const isImage = (file) => /_\d{4}\.[^_]*$/.test(file.name);
    const images = files.filter(isImage).sort((a, b) => a.name.localeCompare(b.name));
    const others = files.filter((file) => !isImage(file));
    const image = images[0] || others.shift();
    if (!image) return;
    await guarded(image.name, async () => {
      state.scan = await niivue.NVImage.new(await image.arrayBuffer(), image.name, "gray");
      state.before = null;
      state.mask = others.length ? await asMask(await others[0].arrayBuffer(), others[0].name) : null;
      if (state.mask) onlyTumor(state.mask);
    });
  }

  function onlyTumor(mask) {
    mask.img = Uint8Array.from(mask.img, (value) => (labels.includes(value) ? 1 : 0));
    mask.hdr.datatypeCode = 2;
    mask.hdr.numBitsPerVoxel = 8;
    mask.hdr.scl_slope = 1;
    mask.hdr.scl_inter = 0;
    mask.global_min = 0;
    mask.global_max = 1;
  }

  async function guarded(name, load) {
    tell("");
    box.hidden = false;
    document.getElementById("viewed").textContent = name;
    try {
      await start();
      await load();
      draw();
      center();
    } catch (error) {
      tell(`${name} cannot be shown: ${error.message || error}`);
    }
  }

  function draw() {
    const nv = state.niivue;
    if (!nv || !state.scan) return;
    while (nv.volumes.length) nv.removeVolumeByIndex(nv.volumes.length - 1);
    nv.addVolume(state.show === "before" && state.before ? state.before : state.scan);
    if (state.show === "mask" && state.mask) nv.addVolume(state.mask);
    layout();
  }

  function layout() {
    const nv = state.niivue;
    if (!nv) return;
    const type = Number(document.getElementById("layout").value);
    nv.setSliceType([nv.sliceTypeAxial, nv.sliceTypeCoronal, nv.sliceTypeSagittal, nv.sliceTypeRender, nv.sliceTypeMultiplanar][type]);
  }

  function center() {
    const middle = state.mask && centroidMm(state.mask);
    if (!middle) return;
    state.niivue.scene.crosshairPos = state.niivue.mm2frac(middle);
    state.niivue.drawScene();
  }

  // the middle of a mask in mm; voxels are counted as they lie in the file
  function centroidMm(mask) {
    const [, nx, ny] = mask.hdr.dims;
    const sum = [0, 0, 0];
    let count = 0;
    mask.img.forEach((value, i) => {
      if (!value) return;
      count += 1;
      sum[0] += i % nx;
      sum[1] += Math.floor(i / nx) % ny;
      sum[2] += Math.floor(i / (nx * ny));
    });
    const voxel = sum.map((each) => Math.round(each / count));
    return count ? [0, 1, 2].map((row) => mask.hdr.affine[row].reduce((mm, each, i) => mm + each * (i < 3 ? voxel[i] : 1), 0)) : null;
  }

  function tell(text) {
    status.textContent = text;
  }

  function close() {
    box.hidden = true;
  }

  document.getElementById("layout").addEventListener("change", layout);
  document.getElementById("close").addEventListener("click", close);
  document.getElementById("volumes").addEventListener("change", (event) => openFiles([...event.target.files]));
  document.addEventListener("pairs:view", (event) => openCrop(event.detail));
  document.addEventListener("pairs:close", close);
  document.addEventListener("pairs:show", (event) => {
    state.show = event.detail;
    draw();
  });
  return { state, openCrop };
})();
