// @ts-check
/** The session page: brings its parts together. */

import { Api } from "./api.js";
import { Beginning } from "./beginning.js";
import { CascadeView } from "./cascade_view.js";
import { byId, setAttribute, setText } from "./dom.js";
import { download } from "./download.js";
import { askBeforeEnd } from "./end_dialog.js";
import { Figures } from "./figures.js";
import { FullScreen } from "./full_screen.js";
import { glow } from "./glow.js";
import { KeyDialog } from "./key_dialog.js";
import { Loras } from "./loras.js";
import { Models } from "./models.js";
import { Notices } from "./notices.js";
import { Over } from "./over.js";
import { Player } from "./player.js";
import { fromStatus, ProblemBox } from "./problem.js";
import { faultOf, Prompts } from "./prompts.js";
import { Recorder } from "./recorder.js";
import { Session } from "./session.js";
import { parseLink, Share } from "./share.js";
import { listen } from "./shortcuts.js";
import { endText, StateView } from "./state_view.js";
import { Timeline } from "./timeline.js";
import { clock, readable, seconds } from "./times.js";
import { wishes } from "./wishes.js";

const VIEWERS_EVERY_MS = 5000;
const MAX_WORDS = 12;

class Page {
  constructor() {
    this.isWaiting = false;
    /** @type {Set<string>} Words that were told to be unknown. */
    this.told = new Set();
    this.problem = new ProblemBox(byId("problem"));
    this.notices = new Notices(byId("notices"));
    this.stateView = new StateView();
    this.figures = new Figures();
    this.cascade = new CascadeView();
    this.timeline = new Timeline((time) => this.figures.show("switch", readable(time)));
    this.recorder = new Recorder((text) => this.note("recording", text));
    this.player = new Player(
      { video: byId("video"), canvas: byId("canvas") },
      {
        began: (piece) => this.began(piece),
        stalled: () => this.stalled(),
        holds: () => this.session.holds(),
        moved: () => this.move(),
        resized: () => this.shape(),
        blocked: () => this.show(),
        broken: (after) => this.session.reattach(after),
        unplayable: (type) => this.problem.show(`This browser does not play ${type} piece by piece.`),
      },
    );
    const api = new Api(new KeyDialog());
    const failed = (/** @type {unknown} */ error) => this.problem.show(error);
    this.api = api;
    this.session = new Session(api, this.player, {
      changed: () => this.show(),
      heard: (kind, content, media) => this.heard(kind, content, media),
      waits: (problem) => this.waits(problem),
      rejected: (requestIds, problem) => this.rejected(requestIds, problem),
      finished: (problem) => this.problem.show(problem),
    });
    this.share = new Share(api, failed);
    this.prompts = new Prompts((text) => this.send(text));
    this.loras = new Loras();
    this.models = new Models(api, this.loras, (texts) => this.prompts.suggest(texts), failed);
    this.beginning = new Beginning((text) => this.problem.show(text));
    this.over = new Over();
    this.fullScreen = new FullScreen();
    glow(this.player, byId("glow"));
    this.listen();
  }

  listen() {
    byId("pause").addEventListener("click", () => this.pause());
    byId("record").addEventListener("click", () => this.record());
    byId("download").addEventListener("click", () => this.download());
    byId("share").addEventListener("click", () => this.share.show(this.session.name));
    askBeforeEnd(() => this.session.end());
    listen({
      pause: () => this.pause(),
      prompt: () => this.prompts.box.focus(),
      fullScreen: () => this.fullScreen.toggle(),
    });
    addEventListener("pagehide", () => this.session.keep());
    addEventListener("hashchange", () => location.hash.startsWith("#view") && location.reload());
    addEventListener("resize", () => this.move());
    setInterval(() => this.countViewers(), VIEWERS_EVERY_MS);
  }

  /** A link to watch, the session of before a reload, or a page that invites to start. */
  open() {
    const link = parseLink(location.hash);
    document.body.classList.toggle("viewer", Boolean(link));
    if (link) this.session.watch(link.name, link.token);
    else {
      if (location.hash.startsWith("#view")) this.problem.show("This link is incomplete. Ask for it again.");
      this.models.load();
      this.session.resume();
    }
    this.show();
  }

  /** @param {string} text Start with it, or switch to it. */
  async send(text) {
    this.problem.clear();
    const fault = faultOf(text);
    if (fault) return this.problem.show(`Prompt: ${fault}.`);
    if (this.session.isViewer) return;
    if (this.session.isLive) this.switchTo(text);
    else await this.start(text);
  }

  /** @param {string} text */
  async start(text) {
    if (this.session.state === "connecting") return;
    this.clear();
    try {
      const start = await this.beginning.wish();
      await this.session.create({
        prompts: { 0: text },
        ...wishes(this.models.chosen),
        ...this.loras.wish,
        ...start,
      });
      this.prompts.remember(text);
      const { fps = 0, blockFrames = 0 } = this.models.chosen ?? {};
      this.over.learn({ spec: { fps }, blockFrames });
    } catch (error) {
      this.problem.show(error);
    }
  }

  /** @param {string} text */
  switchTo(text) {
    const mode = byId("mode").value;
    const more = { ...this.loras.change, transition: mode === "cut" ? undefined : this.over.transition };
    const requestId = this.session.switchPrompt(text, mode, more);
    this.timeline.ask(requestId, text, this.player.time);
    this.prompts.remember(text);
  }

  clear() {
    if (this.recorder.isRecording) this.record();
    this.told.clear();
    for (const part of [this.timeline, this.figures, this.cascade, this.notices, this.share, this.problem])
      part.clear();
  }

  pause() {
    if (this.session.isLive) this.session.setPaused(!this.session.isPaused);
  }

  record() {
    if (!this.recorder.isRecording) this.recorder.start(this.session.name.replace("sessions/", "cascade-"));
    else if (!this.recorder.stop()) this.note("recording", "Nothing was recorded.");
    this.show();
  }

  async download() {
    try {
      await download(this.session.name, this.session.token);
    } catch (error) {
      this.problem.show(error instanceof TypeError ? "The download failed. Try again." : error);
    }
  }

  /** @param {string} kind @param {any} content @param {Uint8Array | null} media */
  heard(kind, content, media) {
    const time = this.player.time;
    if (kind === "attached") this.heardAttached(content);
    if (kind === "mediaInit" && media) this.recorder.takeInit(media);
    if (kind === "segment" && media) this.heardSegment(content, media);
    if (kind === "promptReceipt") this.heardReceipt(content);
    if (kind === "queueChanged") this.stateView.showQueue(content);
    if (kind === "recoveryStarted") this.notices.recoveryStarted(content, time);
    if (kind === "recoveryDone") this.notices.recoveryDone(content, time);
    if (kind === "skipped") this.notices.skipped(content, time);
    if (kind === "blockMade") this.heardBlock(content);
    if (kind === "resumed") this.note("reconnect", "The connection was lost, and is there again.");
    if (kind === "reconnect") this.note("reconnect", "This gateway goes away: moving over to another.");
    if (kind === "requestFailed") this.heardFailure(content);
    if (kind === "ended") this.heardEnd(content);
  }

  /** @param {any} content ConnectResponse.Attached */
  heardAttached(content) {
    const { session } = content;
    if (this.isWaiting) this.problem.clear();
    this.isWaiting = false;
    this.figures.show("viewers", String(session.numViewers ?? 0));
    if (session.queue) this.stateView.showQueue(session.queue);
    this.timeline.plan(session);
    this.models.follow(session.spec?.model ?? "");
    this.loras.set(session.loras ?? []);
    this.over.learn(session);
    for (const receipt of content.receipts ?? [])
      this.heardReceipt(receipt, this.timeline.isOpen(receipt.requestId));
    this.tellUnknown((session.unknownWords ?? []).flatMap((/** @type {any} */ each) => each.words));
  }

  /** @param {any} content ConnectResponse.Segment @param {Uint8Array} media */
  heardSegment(content, media) {
    const { last } = this.player.pieces;
    if (last) this.figures.arrived(last);
    this.recorder.take(content, media);
  }

  /** @param {any} receipt PromptReceipt; those of the first prompts have no id
   * @param {boolean} isNews Each attaching brings the last ones again. */
  heardReceipt(receipt, isNews = true) {
    if (!receipt.requestId) return;
    const known = this.session.asked[receipt.requestId];
    const shown = seconds(receipt.touchedPresentationTime); // All that is known of what somebody else has asked.
    const other = { text: receipt.text || "a new prompt", time: shown ?? this.player.time };
    const { text, time } = known ?? other;
    this.timeline.receive(receipt, text, time);
    if (isNews && receipt.state === "SWITCH_STATE_REFUSED") this.problem.show(fromStatus(receipt.status));
    if (receipt.state === "SWITCH_STATE_APPLIED") this.tellUnknown(receipt.unknownWords ?? []);
  }

  /** @param {any} content ConnectResponse.BlockMade */
  heardBlock(content) {
    this.cascade.add(content);
    this.figures.show("stage", content.stage || "–");
    this.figures.show("lead", content.lead ? readable(seconds(content.lead) ?? 0) : "–");
  }

  /** @param {any} content ConnectResponse.RequestFailed */
  heardFailure(content) {
    this.rejected([content.requestId], fromStatus(content.status));
  }

  /** @param {import("./problem.js").Problem} problem It tries again by itself: told until it is attached. */
  waits(problem) {
    this.isWaiting = true;
    this.problem.show(problem);
  }

  /** @param {string[]} requestIds @param {import("./problem.js").Problem} problem */
  rejected(requestIds, problem) {
    for (const requestId of requestIds) this.timeline.refuse(requestId);
    this.problem.show(problem);
  }

  /** @param {any} content SessionEnd */
  heardEnd(content) {
    this.note("ended", `The session is over. ${endText(content)}`);
    if (this.recorder.isRecording) this.record();
    if (content.reason === "END_REASON_FAILED") this.problem.show(fromStatus(content.status));
  }

  /** @param {string[]} words */
  tellUnknown(words) {
    const fresh = words.filter((word) => !this.told.has(word));
    if (!fresh.length) return;
    for (const word of fresh) this.told.add(word);
    this.note("words", `The model does not know: ${fresh.slice(0, MAX_WORDS).join(", ")}.`);
  }

  /** @param {string} kind @param {string} text */
  note(kind, text) {
    this.notices.add(kind, text, this.player.time);
  }

  /** @param {import("./pieces.js").Piece} piece */
  began(piece) {
    this.session.began(piece);
    this.figures.began(piece);
    this.show();
  }

  stalled() {
    this.session.stalled();
    this.move();
  }

  move() {
    this.timeline.move(this.player.time, this.player.ahead);
    this.figures.update(this.player, this.session.epoch);
    this.showState();
  }

  /** The screen takes the video's form where it is narrow. */
  shape() {
    const { width = 0, height = 0 } = this.player.output?.size ?? {};
    if (height) byId("screen").style.setProperty("--ratio", String(width / height));
  }

  async countViewers() {
    const { isLive, isConnected, isViewer } = this.session;
    if (!isLive || !isConnected || isViewer || document.hidden) return;
    const found = await this.api.get(`/v1/${this.session.name}`, { quiet: true }).catch(() => null);
    if (found) this.figures.show("viewers", String(found.session.numViewers));
  }

  showState() {
    const { isLive, isViewer, shownState } = this.session;
    const { hasPicture, isBlocked } = this.player;
    this.stateView.show(shownState, { hasPicture, isViewer, isLive, isBlocked });
  }

  /** Everything that follows from where the session stands. */
  show() {
    const { session, player } = this;
    const state = session.shownState;
    const { isLive } = session;
    this.showState();
    setText(byId("send"), isLive ? "Switch" : "Start");
    byId("send").disabled = state === "connecting" && !isLive;
    for (const id of ["pause", "share", "end"]) byId(id).disabled = !isLive;
    byId("record").disabled = !isLive && !this.recorder.isRecording;
    byId("download").disabled = player.begun === 0;
    setAttribute(byId("pause"), "aria-pressed", String(session.isPaused));
    setText(byId("pause-text"), session.isPaused ? "Resume" : "Pause");
    setAttribute(byId("record"), "aria-pressed", String(this.recorder.isRecording));
    const { isRecording, length } = this.recorder;
    setText(byId("record-text"), isRecording ? `Stop ${clock(length)}` : "Record");
    byId("options").disabled = isLive;
  }
}

new Page().open();
