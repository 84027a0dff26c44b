// Hands over what the microphone gives, in parts of some thousand samples.

const PART_SAMPLES = 2048;

class Recorder extends AudioWorkletProcessor {
  part = new Float32Array(PART_SAMPLES);
  n = 0;

  process([[channel]]) {
    if (!channel) return true;
    this.part.set(channel, this.n); // 128 samples, of which PART_SAMPLES is a multiple
    this.n += channel.length;
    if (this.n === PART_SAMPLES) {
      this.port.postMessage(this.part.slice());
      this.n = 0;
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
